"""Read a batch's file: a table, JSON, or a prompt a line. The whole file is checked before anything is queued."""

from ltx_client.terminal.batch_files.formats import MAX_BYTES, read_batch
from ltx_client.terminal.batch_files.lines import Line, LineError, Remarks
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
