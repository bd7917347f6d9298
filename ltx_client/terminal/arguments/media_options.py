"""Parse --image and --video: a file, the frame of the video that shows it, and the part of a clip that is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ltx_client.errors import UsageError

if TYPE_CHECKING:
    from ltx_models.request import ConditioningItem

__all__ = ["media_item"]

TIME = r"start|(?:\d+:)?\d+:[0-5]\d(?:\.\d+)?|\d+(?:\.\d*)?s?|\.\d+s?"
"""A time as h:mm:ss, m:ss or seconds; or the clip's start."""
FRAME = r"@(?P<frame>\d+|last)(?::(?P<strength>[\d.]+))?"
FORMS = {
    "image": [re.compile(rf"(?P<source>.+?)(?:{FRAME})?", re.DOTALL | re.ASCII)],
    "video": [
        re.compile(rf"(?P<source>.+?)\[(?P<start>[^\[\]]*?)-(?P<stop>[^\[\]]*?)\](?:{FRAME})?", re.DOTALL | re.ASCII),
        re.compile(rf"(?P<source>.+?)@(?P<start>{TIME})", re.DOTALL | re.ASCII),
        re.compile(rf"(?P<source>.+?)(?:{FRAME})?", re.DOTALL | re.ASCII),
    ],
}
"""The forms of an option's value; of several that match, the first that names a file is used.

m:ss has two digits after its colon, and a strength one before its point, so that neither is taken for the other.
"""
EXAMPLES = {
    "image": "picture.png, picture.png@last or picture.png@16:0.8",
    "video": "clip.mp4, clip.mp4@1:30 or 'clip.mp4[2.5-4]'",
}


def media_item(kind: Literal["image", "video"], text: str, **switches: bool) -> ConditioningItem:
    """Return the item that an option's value names; a file whose name is the whole value is found too.

    Raises:
        UsageError: The value is invalid.
        InvalidRequest: A number in it is out of bounds.
    """
    from ltx_models.request import LAST_FRAME, ConditioningItem

    if _is_file(text):
        return ConditioningItem(kind=kind, source=text, **switches)
    matches = [found for form in FORMS[kind] if (found := form.fullmatch(text))]
    match = next((found for found in matches if _is_file(found["source"])), matches[0] if matches else None)
    if match is None:
        raise UsageError(f"--{kind} {text!r} is invalid: it does not name a file; use {EXAMPLES[kind]}")
    _check_rest(kind, text, match["source"])
    given: dict[str, str | None] = {"frame": None, "strength": None, "start": None, "stop": None, **match.groupdict()}
    values: dict[str, Any] = {name: _seconds(given[name], kind, text) for name in ("start", "stop")}
    if given["strength"] is not None:
        values["strength"] = _strength(given["strength"], kind, text)
    frame = given["frame"]
    values["frame"] = LAST_FRAME if frame == "last" else int((frame or "0")[:10])
    return ConditioningItem(kind=kind, source=match["source"], **values, **switches)


def _check_rest(kind: str, text: str, source: str) -> None:
    """Raise UsageError if a file's name is followed by text without a meaning."""
    name = re.match(r"(.+?)(?=[@\[])", source, re.DOTALL | re.ASCII)
    if name and _is_file(name[1]) and not _is_file(source):
        raise UsageError(
            f"--{kind} {text!r} has {text[len(name[1]) :]!r} after the file's name, which is invalid; use"
            f" {EXAMPLES[kind]}"
        )


def _is_file(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # it is too long to be a file's name, or has a null byte in it
        return False


def _seconds(time: str | None, kind: str, given: str) -> float | None:
    if time is None:
        return None
    if not re.fullmatch(TIME, time.strip(), re.ASCII):
        raise UsageError(
            f"--{kind} {given!r} has {time.strip()!r} where a time should be; use seconds or m:ss, as in"
            f" {EXAMPLES[kind]}"
        )
    value = 0.0
    for part in time.strip().replace("start", "0").rstrip("s").split(":"):
        value = 60 * value + float(part)
    return min(value, 1e9)


def _strength(text: str, kind: str, given: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--{kind} {given!r} has the strength {text!r}, which is not a number from 0 to 1") from None
