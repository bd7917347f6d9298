"""A batch's file: a table, JSON, or a prompt a line. It is read and checked as a whole, before anything is queued."""

from ltx_client.terminal.batch_files.lines import Line, LineError, Remarks
from ltx_client.terminal.batch_files.reading import MAX_BYTES, read_batch
from ltx_client.terminal.batch_files.values import fields_of, parse_seeds

__all__ = [
    "MAX_BYTES",
    "Line",
    "LineError",
    "Remarks",
    "fields_of",
    "parse_seeds",
    "read_batch",
]
