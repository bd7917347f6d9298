"""Recognize the format of a batch's file by its content and its name, and read its lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ltx_client.errors import UsageError
from ltx_client.terminal.batch_files.decoding import check_suffix, decode
from ltx_client.terminal.batch_files.lines import LINE_END, Line, LineError, Remarks, check_prompt
from ltx_client.terminal.batch_files.objects import looks_like_json, read_objects
from ltx_client.terminal.batch_files.tables import TableLikeness, names_columns, read_table, table_likeness

__all__ = ["MAX_BYTES", "read_batch"]

MAX_BYTES = 32 * 10**6
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
_SEEN_FIRST = 20
"""Lines of a list of prompts in which a table's header is looked for, below a title."""


def read_batch(data: bytes, name: str, form: str | None, remarks: Remarks | None = None) -> Iterator[Line]:
    """Yield the lines of a file that ask for videos.

    Args:
        data: The file's content.
        name: Its name, which together with the content tells the format.
        form: The format; None to recognize it.
        remarks: Collects what a person should know.

    Raises:
        UsageError: The file cannot be read at all.
    """
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name} has more than {MAX_BYTES / 1e6:,.0f} MB, which a batch's file may have; divide it")
    remarks = Remarks() if remarks is None else remarks
    text = decode(data, name)
    match form or _recognized(text, name):
        case "csv" | "tsv":
            return read_table(text, remarks)
        case "jsonl":
            return read_objects(text, remarks, by_lines=True)
        case "json":
            return read_objects(text, remarks, by_lines=False)
    return _prompts(text, remarks, is_sure=form == "text")


def _recognized(text: str, name: str) -> str:
    form = _SUFFIXES.get(Path(name).suffix.lower())
    if looks_like_json(text):
        return "jsonl" if form == "jsonl" else "json"
    if form is not None:
        return form
    check_suffix(name)
    likeness = table_likeness(text)
    if likeness is TableLikeness.MAYBE:
        raise UsageError(
            f"{name}, line 1: this may be a prompt, or name the columns of a table; say which with --format text or"
            " --format csv"
        )
    return "csv" if likeness is TableLikeness.YES else "text"


def _prompts(text: str, remarks: Remarks, *, is_sure: bool) -> Iterator[Line]:
    """Yield a prompt a line; `is_sure` means that somebody said that it is a list of prompts, whatever is in it."""
    seen = 0
    for number, line in enumerate(LINE_END.split(text), 1):
        prompt = line.strip()
        if not prompt or prompt.startswith("#"):
            continue
        seen += 1
        if looks_like_json(prompt) and not is_sure:
            yield Line(number, LineError("this is JSON in a list of prompts; use one or the other"))
        elif seen <= _SEEN_FIRST and not is_sure and names_columns(prompt):
            yield Line(number, LineError("this names a table's columns; remove what is above it, and use --format csv"))
        else:
            remarks.see_prompt(number, prompt)
            yield Line(number, {"prompt": prompt} if is_sure else _checked(prompt))


def _checked(prompt: str) -> dict[str, str] | LineError:
    try:
        check_prompt(prompt)
    except LineError as error:
        return error
    return {"prompt": prompt}
