"""Read JSON, as programs and people write it: an object a line, a sequence of objects, one array, or one object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ltx_client.terminal.batch_files.lines import LINE_END, Line, LineError, Remarks
from ltx_client.terminal.batch_files.values import Given, Written, brief, fields_of, resolve, spelled, values_of

__all__ = ["looks_like_json", "read_objects"]

_START = re.compile(r"""\s*(?:\{\s*(?:["'“”}]|prompt\b|$)|\[\s*(?:[{\["'\]]|$))""")
_BLANK = re.compile(r"[ \t\n]*")
_HINTS = {
    "'": "text is in double quotes",
    "“": "quotation marks are straight",
    "”": "quotation marks are straight",
    "/": "there are no comments",
    "#": "there are no comments",
}
"""JSON's rules, by the character at which it could not be read."""
_UNREADABLE = "this is not JSON that can be read: a number is too long, or it is nested too deeply"


def looks_like_json(text: str) -> bool:
    """Return whether a text begins like JSON, not like a prompt in brackets."""
    return _START.match(text) is not None


def read_objects(text: str, remarks: Remarks, *, by_lines: bool) -> Iterator[Line]:
    """Yield the lines that ask for videos, and what is wrong with them.

    Args:
        text: The file's text.
        remarks: Collects what a person should know.
        by_lines: Whether the file is called JSON Lines, so that every line is read, whatever the others are.
    """
    text = LINE_END.sub("\n", text)
    found: Iterable[tuple[int, Any]]
    try:
        found = list(_decoded(text))
    except (ValueError, RecursionError) as error:
        if not text.lstrip().startswith("[") and (by_lines or _is_whole(text.lstrip().partition("\n")[0])):
            lines = enumerate(text.split("\n"), 1)
            found = ((number, _decoded_line(line)) for number, line in lines if line.strip())
        else:
            found = [(_line_of(error, text), LineError(_why(error)))]
    for number, value in found:
        yield Line(number, value if isinstance(value, LineError) else _checked(number, value, remarks))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        raise LineError(f"{brief(next(name for name in names if names.count(name) > 1))} is given twice")
    return given


def _constant(word: str) -> Any:
    raise LineError(f"{word} is not a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=Written, parse_constant=_constant)


class _Unreadable(ValueError):
    """A value that begins in this line cannot be read."""

    def __init__(self, number: int, why: str) -> None:
        self.number = number
        super().__init__(why)


def _decoded(text: str) -> Iterator[tuple[int, Any]]:
    """Yield each value with the number of the line that it begins in. Raise ValueError."""
    number, before, at = 1, 0, _after_blanks(text, 0)
    in_array = text[at : at + 1] == "["
    at = _after_blanks(text, at + in_array)
    first = True
    while at < len(text) if not in_array else not (first and text[at : at + 1] == "]"):
        number, before, first = number + text.count("\n", before, at), at, False
        try:
            value, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise _Unreadable(number, str(error) if isinstance(error, LineError) else _UNREADABLE) from None
        yield number, value
        at = _after_blanks(text, at)
        if in_array and text[at : at + 1] == "]":
            break
        if in_array:
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = _after_blanks(text, at + 1)
    if in_array and text[at + 1 :].strip():
        raise json.JSONDecodeError("Extra data", text, _after_blanks(text, at + 1))


def _after_blanks(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _decoded_line(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        return LineError(_why(error))


def _is_whole(line: str) -> bool:
    return not isinstance(_decoded_line(line), LineError)


def _line_of(error: Exception, text: str) -> int:
    match error:
        case json.JSONDecodeError():
            return error.lineno
        case _Unreadable():
            return error.number
    return text.count("\n", 0, len(text) - len(text.lstrip())) + 1


def _why(error: Exception) -> str:
    if isinstance(error, LineError | _Unreadable):
        return str(error)
    if not isinstance(error, json.JSONDecodeError):
        return _UNREADABLE
    at, text = error.pos, error.doc
    hint = _HINTS.get(text[at : at + 1], "")
    if re.match(r",\s*[}\]]", text[at:]) or (re.search(r",\s*$", text[:at]) and text[at : at + 1] in ("]", "}")):
        hint = "there is no comma before a closing bracket"
    elif error.msg == "Extra data" and text[at : at + 1] == ",":
        hint = "there is no comma between lines, only in an array"
    return f"this is not JSON: {error.msg} (column {error.colno})" + (f"; in JSON, {hint}" if hint else "")


def _checked(number: int, value: Any, remarks: Remarks) -> dict[str, Any] | LineError:
    try:
        values = {"prompt": value} if isinstance(value, str) else _values(value, remarks)
    except LineError as error:
        return error
    remarks.see_prompt(number, values["prompt"])
    return values


def _is_wrapper(value: dict[str, Any]) -> bool:
    """Return whether an object has one field, which is not the name of an option."""
    return len(value) == 1 and {*map(spelled, value)}.isdisjoint((*fields_of(), "seeds"))


def _values(value: Any, remarks: Remarks) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LineError(f"use an object, such as {json.dumps({'prompt': 'a red ball', 'steps': 8})}")
    for name, inner in value.items():
        if isinstance(inner, list) and inner and (isinstance(inner[0], dict) or _is_wrapper(value)):
            raise LineError(f"{brief(name)} contains a list; use that list alone as the file")
    given = []
    for written, item in value.items():
        if item is None:
            continue
        name = resolve(written)
        if name is None:
            remarks.ignored[written] = None
        else:
            given.append(Given(written, name, item))
    return values_of(given)
