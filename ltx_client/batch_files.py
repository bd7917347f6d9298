"""A batch's file: JSON lines, CSV, or a prompt a line. Read and checked as a whole, before anything is queued."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from ltx_client.errors import UsageError
from ltx_client.options import describing_options

__all__ = ["FORMATS", "Line", "LineError", "fields_of", "parse_seeds", "read_batch"]

FORMATS = ("jsonl", "csv", "text")
MAX_BYTES = 32 * 10**6
MAX_SEEDS = 1_000
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


class LineError(ValueError):
    """What is wrong with one line."""


class Line(NamedTuple):
    """One line that asks for a video: its number in the file, from 1, and the options that it gives.

    `values` is a LineError where the line cannot be read.
    """

    number: int
    values: dict[str, Any] | LineError


def read_batch(data: bytes, name: str, form: str | None) -> Iterator[Line]:
    """The lines of a file that ask for videos. `name` tells the format where `form` does not.

    Raises UsageError when there is no reading it at all.
    """
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name} has {len(data) / 1e6:,.0f} MB; a batch's file may have {MAX_BYTES / 1e6:,.0f} MB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}, line {line}: this is not UTF-8 text") from None
    form = form or SUFFIXES.get(Path(name).suffix.lower()) or ("jsonl" if text.lstrip()[:1] == "{" else "text")
    return {"jsonl": _json_lines, "csv": _csv_rows, "text": _prompts}[form](text)


def fields_of() -> dict[str, click.Parameter]:
    """What a line may say, under the options' names (`negative_prompt` for --negative-prompt)."""

    @click.command()
    @describing_options
    def described() -> None: ...

    options = {option.opts[-1].lstrip("-").replace("-", "_"): option for option in described.params}
    return {"prompt": click.Argument(["prompt"]), **options, "seed": click.Option(["--seed"], type=int)}


def parse_seeds(text: str) -> list[int]:
    """The seeds that `1-8` or `1,5,40-42` names. Raises ValueError, whose sentence says what would be right."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isascii() and first.isdecimal()) or (dash and not (last.isascii() and last.isdecimal())):
            raise ValueError(f"{text!r} names no seeds; give them as 1-8 or 1,5,40-42")
        begin, end = int(first[:20]), int((last or first)[:20])
        if end < begin or end - begin >= MAX_SEEDS or len(seeds) + end - begin >= MAX_SEEDS:
            raise ValueError(f"{text!r} does not name 1 to {MAX_SEEDS} seeds, the smaller number of a range first")
        seeds += range(begin, end + 1)
    return list(dict.fromkeys(seeds))


def _prompts(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield Line(number, {"prompt": line.strip()})


def _json_lines(text: str) -> Iterator[Line]:
    fields = fields_of()
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Line(number, _checked(lambda line=line: _json_values(line, fields)))


def _json_values(line: str, fields: dict[str, click.Parameter]) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise LineError(f"this is not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError):
        raise LineError("this is not JSON that can be read: a number is too long, or it is nested too deeply") from None
    if not isinstance(given, dict):
        raise LineError(f"give an object, as {json.dumps({'prompt': 'a red ball', 'steps': 8})}")
    return _values({name: value for name, value in given.items() if value is not None}, fields)


def _csv_rows(text: str) -> Iterator[Line]:
    fields = fields_of()
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(number, LineError(f"this is not CSV: {error}"))
            return
        if not any(cell.strip() for cell in row):
            continue
        if header is None:
            header = [cell.strip() for cell in row]
            if unknown := [name for name in header if name not in (*fields, "seeds")]:
                yield Line(number, LineError(_unknown(unknown[0], fields)))
                return
            if "prompt" not in header:
                yield Line(number, LineError("no column is called prompt; the first line names the columns"))
                return
        elif len(row) > len(header):
            yield Line(number, LineError(f"it has {len(row)} cells, and there are {len(header)} columns"))
        else:
            given = {name: cell for name, cell in zip(header, row, strict=False) if cell.strip()}
            yield Line(number, _checked(lambda given=given: _values(given, fields)))


def _checked(read: Any) -> dict[str, Any] | LineError:
    try:
        return read()  # type: ignore[no-any-return]
    except LineError as error:
        return error


def _values(given: dict[str, Any], fields: dict[str, click.Parameter]) -> dict[str, Any]:
    """What a line gives, each value of the type that its option has, under the names of the options' parameters."""
    values = {}
    for name, value in given.items():
        if name == "seeds":
            values["seeds"] = _seeds(value)
        elif name not in fields:
            raise LineError(_unknown(name, fields))
        else:
            option = fields[name]
            assert option.name is not None
            values[option.name] = _typed(name, option, value)
    if not isinstance(values.get("prompt"), str):
        raise LineError("it has no prompt")
    return values


def _seeds(value: object) -> list[int]:
    if isinstance(value, list) and value and all(type(seed) is int for seed in value) and len(value) <= MAX_SEEDS:
        return value
    try:
        return parse_seeds(value if isinstance(value, str) else json.dumps(value))
    except ValueError as error:
        raise LineError(str(error)) from None


def _typed(name: str, option: click.Parameter, value: Any) -> Any:
    if getattr(option, "multiple", False):
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in values):
            raise LineError(f"{name} {_brief(value)} is no file's name, nor a list of them")
        return tuple(values)
    if isinstance(option, click.Option) and option.is_flag:
        word = WORDS.get(str(value).strip().lower())
        if word is None:
            raise LineError(f"{name} {_brief(value)} is neither true nor false")
        return word
    if option.type is click.STRING:
        if not isinstance(value, str):
            raise LineError(f"{name} {_brief(value)} is no text")
        return value
    number = _number(value)
    if number is None or (option.type is click.INT and not float(number).is_integer()):
        raise LineError(f"{name} {_brief(value)} is no {'whole ' if option.type is click.INT else ''}number")
    return int(number) if option.type is click.INT else float(number)


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value) if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() else float(value)
        return number if abs(number) < 1e300 and number == number else None
    except (ValueError, OverflowError):
        return None


def _unknown(name: str, fields: dict[str, click.Parameter]) -> str:
    known = [*fields, "seeds"]
    near = difflib.get_close_matches(name, known, 1)
    return f"{_brief(name)} is unknown here; " + (f"is {near[0]} meant?" if near else f"{', '.join(known)} are known")


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
