"""Parse the names in a batch's file and their values, each of the type of its option."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import click

from ltx_client.terminal.arguments.options import describing_options
from ltx_client.terminal.batch_files.lines import LineError, check_prompt

__all__ = ["Given", "Written", "brief", "fields_of", "parse_seeds", "resolve", "spelled", "values_of"]

MAX_SEEDS = 1_000
_WORDS = dict.fromkeys(("true", "yes", "y", "on", "1"), True) | dict.fromkeys(("false", "no", "n", "off", "0"), False)
_ALIASES = {
    "num_frames": "frames",
    "num_steps": "steps",
    "frame_rate": "fps",
    "guidance_scale": "guidance",
    "images": "image",
    "videos": "video",
}
"""Names of the Python interface, and the options that they mean."""
_MEANT = {
    **dict.fromkeys(("cfg", "cfg_scale"), "guidance"),
    **dict.fromkeys(("num_inference_steps", "sampling_steps"), "steps"),
    **dict.fromkeys(("length", "duration"), "seconds"),
    **dict.fromkeys(("negative", "neg"), "negative_prompt"),
    **dict.fromkeys(("text", "caption", "prompts"), "prompt"),
    "model": "variant",
}
"""Other programs' names for an option. They are suggested, not accepted: their values may have another meaning."""
_NOTES = frozenset((
    "note", "notes", "name", "comment", "comments", "remark", "remarks", "title", "author", "date", "scene", "shot",
    "take", "tag", "tags", "category", "status", "number", "no", "nr", "id", "row", "index", "source", "reference",
    "notiz", "notizen", "kommentar", "bemerkung", "bemerkungen",
))  # fmt: skip
"""Columns and fields for people, which are ignored; so are those whose names begin with _ or #."""
_NOTE_MARKS = ("_", "#", "Unnamed:")
"""The beginnings of names of notes; pandas gives the last one to columns without a name."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?P<exponent>[eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+)")
_POINT_FOR_THOUSANDS = re.compile(r"([+-]?[1-9]\d{0,2})\.000")
"""Whole numbers with a point for thousands; with any other point, a number is not whole."""
_MOST_DIGITS = 40


class Written(float):
    """A number with a point or an exponent, as it is in a JSON file.

    Attributes:
        text: How it is written.
    """

    text: str

    def __new__(cls, text: str) -> Written:
        """Return the number that a text means."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class Given(NamedTuple):
    """One value: its name as written, the option's name that it means, and the value."""

    written: str
    name: str
    value: Any


@functools.cache
def fields_of() -> dict[str, click.Parameter]:
    """Return the options that a line may give, by name (`negative_prompt` for --negative-prompt)."""

    @click.command()
    @describing_options
    def described() -> None: ...

    options = {option.opts[-1].lstrip("-").replace("-", "_"): option for option in described.params}
    return {"prompt": click.Argument(["prompt"]), **options, "seed": click.Option(["--seed"], type=int)}


def spelled(name: str) -> str:
    """Return a name as options are spelled, `negative_prompt` for `Negative Prompt` or `--negative-prompt`."""
    divided = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    words = re.sub(r"[\s_-]+", "_", divided).strip("_").lower()
    return _ALIASES.get(words, words)


def resolve(name: str) -> str | None:
    """Return the option's name that a column or field means, or None for a note.

    Raises:
        LineError: The name is unknown.
    """
    known = [*fields_of(), "seeds"]
    words = spelled(name)
    if words in known:
        return words
    if words in _NOTES or name.lstrip().startswith(_NOTE_MARKS):
        return None
    begun = [option for option in known if len(words) > 2 and option.startswith(words)]
    close = [_ALIASES.get(other, other) for other in difflib.get_close_matches(words, [*known, *_ALIASES], 1, 0.7)]
    near = next(iter([*filter(None, [_MEANT.get(words)]), *begun, *close]), None)
    raise LineError(
        f"{brief(name)} is unknown; "
        + (f"is {near} meant?" if near else f"use one of {', '.join(known)}, or a name that begins with _ for a note")
    )


def values_of(given: Iterable[Given], *, comma: bool = False) -> dict[str, Any]:
    """Return a line's values, under the names of the options' parameters.

    Args:
        given: The line's values.
        comma: Whether to read a decimal comma, as in spreadsheets with semicolons or tabs between columns.

    Raises:
        LineError: A value is invalid.
    """
    values: dict[str, Any] = {}
    written: dict[str, str] = {}
    for item in given:
        if item.name in written:
            raise LineError(f"{item.name} is given twice, as {brief(written[item.name])} and {brief(item.written)}")
        written[item.name] = item.written
        if item.name == "seeds":
            values["seeds"] = _seeds(item.value)
        else:
            option = fields_of()[item.name]
            assert option.name is not None
            values[option.name] = _typed(item.written.strip(), option, item.value, comma)
    if not isinstance(values.get("prompt"), str):
        raise LineError("it has no prompt")
    check_prompt(values["prompt"])
    return values


def parse_seeds(text: str) -> list[int]:
    """Return the seeds in a text such as `1-8` or `1,5,40-42`.

    Raises:
        ValueError: The text is invalid; the message says what to use.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isascii() and first.isdecimal()) or (dash and not (last.isascii() and last.isdecimal())):
            raise ValueError(f"{text!r} is invalid: it names no seeds; use numbers such as 1-8 or 1,5,40-42")
        begin, end = int(first[:20]), int((last or first)[:20])
        if end < begin or end - begin >= MAX_SEEDS or len(seeds) + end - begin >= MAX_SEEDS:
            raise ValueError(f"{text!r} does not name 1 to {MAX_SEEDS} seeds, the smaller number of a range first")
        seeds += range(begin, end + 1)
    return list(dict.fromkeys(seeds))


def brief(value: object) -> str:
    """Return a value as a sentence can quote it."""
    text = value.text if isinstance(value, Written) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def _seeds(value: object) -> list[int]:
    if isinstance(value, list) and value and all(type(seed) is int for seed in value) and len(value) <= MAX_SEEDS:
        return value
    try:
        return parse_seeds(value if isinstance(value, str) else json.dumps(value))
    except ValueError as error:
        raise LineError(str(error)[:200]) from None


def _typed(name: str, option: click.Parameter, value: Any, comma: bool) -> Any:
    if getattr(option, "multiple", False):
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in values):
            raise LineError(f"{name} {brief(value)} is not a file's name, nor a list of them")
        return tuple(values)
    if isinstance(option, click.Option) and option.is_flag:
        word = _WORDS.get(str(value).strip().lower())
        if word is None:
            raise LineError(f"{name} {brief(value)} is neither true nor false")
        return word
    if option.type is click.STRING:
        if not isinstance(value, str):
            raise LineError(f"{name} {brief(value)} is not a text")
        return value
    return _number(name, value, whole=option.type is click.INT, comma=comma)


def _number(name: str, value: Any, *, whole: bool, comma: bool) -> int | float:
    wrong = f"{name} {brief(value)} is not a {'whole ' if whole else ''}number"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise LineError(wrong)
    text = value.text if isinstance(value, Written) else str(value).strip()
    if divided := _DECIMAL_COMMA.fullmatch(text):
        if not comma or len(divided[2]) == 3:
            raise LineError(
                f"{wrong}: its comma may stand for thousands; write {divided[1]}.{divided[2]} or {_bare(text)}"
            )
        text = f"{divided[1]}.{divided[2]}"
    if whole and isinstance(value, str) and (grouped := _POINT_FOR_THOUSANDS.fullmatch(text)):
        raise LineError(f"{wrong}: its point may stand for thousands; write {grouped[1]} or {text.replace('.', '')}")
    match = _NUMBER.fullmatch(text)
    if match is None or (whole and len(text) > _MOST_DIGITS):
        raise LineError(wrong)
    if not whole:
        number = float(text)
        if abs(number) >= 1e300:
            raise LineError(wrong)
        return number
    if match["exponent"]:
        raise LineError(
            f"{wrong}: its exponent may stand for lost digits, as when a spreadsheet shortens a long number;"
            " write all digits (format the column as a number without decimals, and save it again)"
        )
    exact = Decimal(text)
    if exact != exact.to_integral_value():
        raise LineError(wrong)
    return int(exact)


def _bare(text: str) -> str:
    return text.replace(",", "")
