"""Describe what is wrong with a setting's value in our own words: which value it is, and what it must be."""

from __future__ import annotations

import difflib
import reprlib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ltx_client.protocol.text import shown

__all__ = ["Unit", "field_at", "is_shown", "meant", "must_be", "reason"]


@dataclass(frozen=True)
class Unit:
    """The unit of a setting's number, in the metadata of its type: `Annotated[float, Unit("seconds")]`."""

    name: str


_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    SecretStr: "a text",
}
_BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
_LARGE = 10**6
"""The number from which on a bound is written with an exponent."""


def reason(detail: ErrorDetails, field: FieldInfo | None) -> str:
    """Return what is wrong with a field's value, to follow its name: "is '7s'; it must be a number above 0".

    What may be secret, and what is of no use to see, is not quoted. A validator's own sentence is returned as it is.
    """
    if detail["type"] == "value_error":
        return f": {detail['msg'].removeprefix('Value error, ')}"
    if field is None:
        return " has the wrong type"
    value = detail["input"]
    if value == "":
        return f" is empty; it must be {must_be(field)}, or not be set"
    if not is_shown(field) or not isinstance(value, str | int | float):
        return f" is invalid; it must be {must_be(field)}"
    return f" is {shown(reprlib.repr(value))}; it must be {must_be(field)}"


def must_be(field: FieldInfo) -> str:
    """Return which values a field accepts, with their unit."""
    kind, metadata = _plain(field)
    words = _KINDS.get(kind, "a table")
    limits = {
        name: limit
        for part in metadata
        for name in (*_BOUNDS, "min_length", "max_length")
        if (limit := getattr(part, name, None)) is not None
    }
    said = " ".join(f"{_BOUNDS[name]} {_number(limits[name])}" for name in _BOUNDS if name in limits)
    if "ge" in limits and "le" in limits:
        said = f"from {_number(limits['ge'])} to {_number(limits['le'])}"
    if "max_length" in limits:
        said = f"of {limits.get('min_length', 0)} to {limits['max_length']} characters"
    unit = next((f" of {part.name}" for part in metadata if isinstance(part, Unit)), "")
    return f"{words}{unit} {said}".rstrip()


def field_at(model: type[BaseModel], keys: Iterable[Any]) -> FieldInfo | None:
    """Return the field of a model that the keys of a value lead to; None if they lead to none."""
    fields: Mapping[str, FieldInfo] = model.model_fields
    found = None
    for key in keys:
        if key not in fields:  # the name of an entry
            continue
        found = fields[key]
        inner = [found.annotation, *get_args(found.annotation)]
        fields = next(
            (kind.model_fields for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), {}
        )
    return found


def is_shown(field: FieldInfo) -> bool:
    """Return whether the value of a field may be quoted: a text may contain a password."""
    return _plain(field)[0] in (bool, int, float)


def meant(name: str, known: Iterable[str], *, alike: float = 0.6) -> str | None:
    """Return the known name that is most similar to a mistyped one; None if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, alike)), None)


def _plain(field: FieldInfo) -> tuple[Any, list[Any]]:
    """Return the type that a field is about, whether or not it may be None, and its bounds."""
    kind: Any = field.annotation
    metadata = list(field.metadata)
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Annotated:
        inner = FieldInfo.from_annotation(kind)
        kind, metadata = inner.annotation, metadata + inner.metadata
    return kind, metadata


def _number(bound: float) -> str:
    return f"{bound:g}" if bound >= _LARGE else str(bound).removesuffix(".0")
