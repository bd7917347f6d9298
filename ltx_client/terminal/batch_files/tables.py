"""Read tables, as spreadsheets and people write them: separated by commas, semicolons, tabs or bars, or by `sep=`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from ltx_client.terminal.batch_files.lines import Line, LineError, Remarks
from ltx_client.terminal.batch_files.values import Given, brief, fields_of, resolve, spelled, values_of

__all__ = ["TableLikeness", "names_columns", "read_table", "table_likeness"]

_DELIMITERS = (",", ";", "\t", "|")
_DELIMITER_NAMES = {"\t": "a tab", " ": "a space"}
_DECIMAL_COMMAS = (";", "\t")
"""Separators of spreadsheets whose numbers have a decimal comma."""
_SEP_LINE = re.compile(r'\s*"?sep=(?P<delimiter>[^\r\n]*?)"?(?:\r\n|\r|\n|$)', re.IGNORECASE)
_HEADER_CHARACTERS = 20_000
_PREAMBLE = 10
"""The most comments above the header."""
_CSV_ERRORS = {
    "unexpected end of data": 'a cell that begins with " does not end; add its closing "',
    "expected after": 'after a closing " there is more; inside a quoted cell, write "" for each "',
    "field larger": 'a cell is too long; perhaps a closing " is missing',
}
_DIGITS = re.compile(r"\d[\d.,]*")
_NUMBERING = "the first column, which has no name"
_NO_PROMPT = re.compile(r"#(?:[A-ZÄÖÜ/0-9]+[!?]|N/A|NV)|nan|null|none", re.IGNORECASE)
"""What spreadsheets and programs write into a cell without a value."""


class TableLikeness(Enum):
    """Whether a text is a table, if its name does not tell."""

    NO = 0
    MAYBE = 1
    YES = 2


def table_likeness(text: str) -> TableLikeness:
    """Return whether the first line is a table's header, so that neither a header nor a prompt is taken for another."""
    if _SEP_LINE.match(text):
        return TableLikeness.YES
    header = _header(text[:_HEADER_CHARACTERS], _delimiter_of(text))
    names = [spelled(cell) for cell in header if cell.strip()]
    known = {name for name in names if name in fields_of() or name == "seeds"}
    if "prompt" in known:
        return TableLikeness.YES if len(known) > 1 else TableLikeness.MAYBE
    is_all_names = all(_is_meant_for_a_name(cell) for cell in header if cell.strip())
    if known and len(names) > 1 and (is_all_names or _numbers_follow(text, header, known)):
        return TableLikeness.MAYBE
    return TableLikeness.NO


def names_columns(line: str) -> bool:
    """Return whether a line can only be a table's header."""
    return "prompt" in line.lower() and table_likeness(line) is TableLikeness.YES


def read_table(text: str, remarks: Remarks) -> Iterator[Line]:
    """Yield the rows that ask for videos, and what is wrong with them."""
    above = 0
    delimiter = None
    if match := _SEP_LINE.match(text):
        delimiter = match["delimiter"]
        above, text = len(re.findall(r"\r\n|\r|\n", match[0])), text[match.end() :]
        if len(delimiter) != 1 or delimiter in ' "':
            yield Line(
                above or 1,
                LineError(f"sep={delimiter} is invalid: it does not name a separator; use one character, as in sep=;"),
            )
            return
    delimiter = delimiter or _delimiter_of(text)
    columns: list[tuple[str, str | None]] | None = None
    for number, row in _rows(text, delimiter):
        number += above
        if isinstance(row, LineError):
            yield Line(number, row)
        elif columns is None:
            if row[0].lstrip().startswith("#") and "prompt" not in map(spelled, row):
                continue
            try:
                columns = _columns(row, remarks)
            except LineError as error:
                yield Line(number, error)
                return
        else:
            yield Line(number, _checked(number, row, columns, delimiter, remarks))


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | LineError]]:
    """Yield the rows that are not empty, each with the number of its first line; the last one may be an error."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        number = reader.line_num + 1
        try:
            row = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            words = next((words for part, words in _CSV_ERRORS.items() if part in str(error)), str(error))
            yield number, LineError(f"this is not CSV: {words}")
            return
        if any(row):
            yield number, row


def _delimiter_of(text: str) -> str:
    """Return the separator with which the first line names the most columns; naming `prompt` counts most."""

    def known(delimiter: str) -> tuple[bool, int]:
        names = {spelled(cell) for cell in _header(start, delimiter)}
        return "prompt" in names, len(names & {*fields_of(), "seeds"})

    start = text[:_HEADER_CHARACTERS]
    return max(_DELIMITERS, key=known)


def _header(text: str, delimiter: str) -> list[str]:
    """Return the first row that is not a comment."""
    for seen, (_, row) in enumerate(_rows(text, delimiter)):
        if isinstance(row, LineError) or seen == _PREAMBLE:
            break
        if not row[0].startswith("#") or "prompt" in map(spelled, row):
            return row
    return []


def _columns(header: list[str], remarks: Remarks) -> list[tuple[str, str | None]]:
    """Return each column's name as written, and the option's name that it means; None for a note."""
    if "prompt" not in map(spelled, header):
        for cell in header:
            if cell and " meant?" in (said := _why_unknown(cell)):
                raise LineError(said)
        raise LineError(
            "no column is called prompt; the first line must name the columns (--format text reads only prompts)"
        )
    if header[0] == "" and header[-1] == "" and len(header) > 2:
        raise LineError("this is a Markdown table, which is not read; export it as CSV")
    columns = [(cell, resolve(cell) if cell else None) for cell in header]
    seen: dict[str, str] = {}
    for cell, name in columns:
        if name in seen:
            raise LineError(f"two columns are called {name}: {brief(seen[name])} and {brief(cell)}")
        if name is not None:
            seen[name] = cell
        elif cell:
            remarks.ignored[cell] = None
    return columns


def _numbers_follow(text: str, header: list[str], known: set[str]) -> bool:
    """Return whether the next row is as long as the first, and has numbers below the names of options."""
    rows = (row for _, row in _rows(text[:_HEADER_CHARACTERS], _delimiter_of(text)) if not isinstance(row, LineError))
    below = next((row for seen, row in zip(range(_PREAMBLE + 1), rows, strict=False) if seen and row != header), [])
    cells = zip(header, below, strict=False)
    return len(below) == len(header) and any(_DIGITS.fullmatch(cell) for name, cell in cells if spelled(name) in known)


def _is_meant_for_a_name(cell: str) -> bool:
    why = _why_unknown(cell)
    return not why or " meant?" in why


def _why_unknown(cell: str) -> str:
    try:
        resolve(cell)
    except LineError as error:
        return str(error)
    return ""


def _checked(
    number: int, row: list[str], columns: list[tuple[str, str | None]], delimiter: str, remarks: Remarks
) -> dict[str, Any] | LineError:
    try:
        values = _values(row, columns, delimiter, remarks)
    except LineError as error:
        return error
    remarks.see_prompt(number, values["prompt"])
    seed = values.get("seed")
    if seed is not None and seed >= 10**15 and seed % 10 ** (len(str(seed)) - 15) == 0:
        remarks.rounded.append((number, seed))
    return values


def _values(row: list[str], columns: list[tuple[str, str | None]], delimiter: str, remarks: Remarks) -> dict[str, Any]:
    if any(row[len(columns) :]):
        by = _DELIMITER_NAMES.get(delimiter, delimiter)
        are = "column is" if len(columns) == 1 else "columns are"
        raise LineError(
            f"it has {len(row)} cells, and {len(columns)} {are} named; put a cell that contains {by} in quotes"
        )
    given = []
    if [cell for cell in row if cell] == [written for written, _ in columns if written]:
        raise LineError("this names the columns again; remove it")
    for place, (cell, (written, name)) in enumerate(zip(row, columns, strict=False), 1):
        if cell and not written and place == 1:  # row numbers, as pandas and databases export them
            remarks.ignored[_NUMBERING] = None
        elif cell and not written:
            raise LineError(f"{brief(cell)} is in column {place}, which the first line does not name")
        elif name is not None and cell.startswith("="):
            raise LineError(f"{written} {brief(cell)} is a formula; write its value")
        elif cell and name is not None:
            given.append(Given(written, name, cell))
    values = values_of(given, comma=delimiter in _DECIMAL_COMMAS)
    if _NO_PROMPT.fullmatch(values["prompt"]):
        raise LineError(f"the prompt {brief(values['prompt'])} is the text of a cell without a value")
    return values
