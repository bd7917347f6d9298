"""Tell records that a newer version has written from damaged ones, and leave out what this version does not know."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import ValidationError

__all__ = ["newer_parts", "shown_place", "without"]

Place = tuple[int | str, ...]
"""Where in a record something is."""

_UNKNOWN_FIELD = ("extra_forbidden", "unexpected_keyword_argument")
_UNKNOWN_WORD = ("literal_error", "enum")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def newer_parts(error: ValidationError, beside: Collection[str] = ()) -> list[Place]:
    """Return the places of fields and words that this version does not know; none if anything else is wrong too.

    Errors of the types in `beside` are passed over.
    """
    places: list[Place] = []
    for detail in error.errors(include_url=False, include_context=False):
        if detail["type"] in beside:
            continue
        place = detail["loc"] or ("",)
        unknown = {**dict.fromkeys(_UNKNOWN_FIELD, place[-1]), **dict.fromkeys(_UNKNOWN_WORD, detail["input"])}
        if not _is_word(unknown.get(detail["type"])):
            return []
        places.append(place)
    return places


def without(record: bytes | str, places: Sequence[Place]) -> bytes:
    """Return a record, as JSON, without what is at these places. An item of a list is left out as a whole.

    Raises:
        ValueError: The record is not JSON.
    """
    data = json.loads(record)
    for place in sorted({_whole(place) for place in places}, key=_order, reverse=True):  # the last items first
        _remove(data, place)
    return json.dumps(data).encode()


def shown_place(place: Place) -> str:
    """Return a place of `newer_parts` as a sentence names it; unknown names have been found to be words."""
    return ".".join(str(part) for part in place)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _whole(place: Place) -> Place:
    """Return the place of the innermost item of a list that a place is in, or the place itself."""
    numbers = [at for at, part in enumerate(place) if isinstance(part, int)]
    return place[: numbers[-1] + 1] if numbers else place


def _order(place: Place) -> list[str]:
    return [str(part).zfill(9) for part in place]


def _remove(data: Any, place: Place) -> None:
    for part in place[:-1]:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return
    if isinstance(data, dict):
        data.pop(place[-1], None)
    elif isinstance(data, list) and isinstance(place[-1], int) and place[-1] < len(data):
        del data[place[-1]]
