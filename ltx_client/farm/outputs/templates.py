"""Build file names from templates such as `{prompt:.40}-{seed}.mp4`.

Text that somebody wrote, such as a prompt, becomes part of one name: it leads to no other folder, hides no file, and is
not an option to the next command.
"""

from __future__ import annotations

import os
import re
import string
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ltx_client.errors import UsageError
from ltx_client.farm.outputs.names import FIELDS, short_id
from ltx_client.farm.outputs.paths import MP4
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.text import printable

__all__ = ["Template", "fields_of", "safe_name"]

LONGEST = 255
"""Bytes that a file name may have."""
LATEST = 1e11
"""The last time that can be written as a date, in seconds since 1970."""
_FORMAT = re.compile(r"0?\d{0,2}(\.\d{1,3})?[dfs]?")
"""What may follow a field's colon: only what makes a name of a sensible length."""
_UNSAFE_ENDS = " .-~\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"


def fields_of(job: Job, at: float, index: int | None = None) -> dict[str, object]:
    """Return a job's value for each of FIELDS.

    Args:
        job: The job.
        at: When it was submitted, in seconds since 1970.
        index: Its place in a batch, from 1; None for a job without one.
    """
    request = job.request
    moment = datetime.fromtimestamp(min(max(0.0, at), LATEST))
    return {
        "prompt": request.prompt,
        "seed": request.seed,
        "id": short_id(job.id),
        "variant": job.variant,
        "width": request.width,
        "height": request.height,
        "frames": request.num_frames,
        "fps": None if request.frame_rate is None else _number(request.frame_rate),
        "steps": request.num_steps,
        "index": index,
        "date": f"{moment:%Y-%m-%d}",
        "time": f"{moment:%H-%M-%S}",
    }


def _number(value: float) -> float:
    """Return a number of the type that is written shortest and accepts the field's format."""
    return int(value) if float(value).is_integer() else float(f"{value:g}")


@dataclass(frozen=True)
class Template:
    """A parsed output template.

    Attributes:
        folder: The path as it was given, up to the first name with a field in it.
        names: The names of folders and of the file below that; empty if there is no field.
    """

    folder: Path
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Return the template in a path.

        Raises:
            UsageError: The template is invalid.
        """
        if not any(field for _, field, *_ in _parsed(text)):
            return cls(Path(_plain(text)), ())
        names = text.split("/")  # parsed fields have none
        first = next(place for place, name in enumerate(names) if _has_field(name))
        if Path(names[-1]).suffix.lower() not in MP4.suffixes:
            raise UsageError(
                f"the output {text} is invalid: it does not name an MP4; end it with .mp4,"
                " as in {prompt:.40}-{seed}.mp4"
            )
        folder = _plain("/".join(names[:first])) or ("/" if text.startswith("/") else ".")
        return cls(Path(folder), tuple(names[first:]))

    def path(self, fields: Mapping[str, object]) -> Path:
        """Return the path for a job.

        Args:
            fields: What `fields_of` returns.

        Raises:
            UsageError: A field has no value.
        """
        return self.folder.joinpath(*(_filled_in(name, fields) for name in self.names))


def _has_field(name: str) -> bool:
    return any(field is not None for _, field, *_ in string.Formatter().parse(name))


def _plain(text: str) -> str:
    return "".join(literal for literal, *_ in string.Formatter().parse(text))


def _parsed(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return the parts of a template. Raise UsageError unless each field is known and has a plain format."""
    try:
        parts: list[Any] = list(string.Formatter().parse(text))
    except ValueError as error:
        raise UsageError(f"the output {text}: {error}; a brace of the name itself is written {{{{ or }}}}") from None
    for _, field, form, conversion in parts:
        if field is None:
            continue
        if field not in FIELDS or conversion:
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            shown = f"{{{field}{'!' + conversion if conversion else ''}}}"
            raise UsageError(
                f"the output {text}: {shown} is not a field; use {known}; a brace of the name itself is written {{{{"
            )
        if not _FORMAT.fullmatch(form):
            raise UsageError(
                f"the output {text}: {{{field}:{form}}} is invalid; use formats such as {{prompt:.40}} (its first 40"
                " letters) and {index:04} (four digits)"
            )
    return parts


def _filled_in(name: str, fields: Mapping[str, object]) -> str:
    """Return a file name with values for its fields; the prompt is cut if the name would be too long."""
    parts = _parsed(name)

    def filled(limit: int) -> str:
        return "".join(literal + _value(field, form, fields, limit) for literal, field, form, _ in parts)

    room = LONGEST - len(os.fsencode(filled(0)))
    return filled(max(0, room) // max(1, [field for _, field, *_ in parts].count("prompt")))


def _value(field: str | None, form: str | None, fields: Mapping[str, object], limit: int) -> str:
    if field is None:
        return ""
    value = fields[field]
    if value is None:
        raise UsageError(
            f"the output has {{{field}}}, which this job does not have; only videos of a batch have {{index}}"
        )
    try:
        if isinstance(value, str) and form and form[0] == "0":  # which would put zeros after a text
            raise ValueError
        text = format(value, form or "")
    except ValueError:
        raise UsageError(f"the output has {{{field}:{form}}}, which is invalid for {value!r}") from None
    if not isinstance(value, str):
        return text
    return safe_name(text, limit if field == "prompt" else LONGEST)


def safe_name(text: str, most: int = LONGEST) -> str:
    """Return a text as part of a file name on any system, of at most `most` bytes."""
    from pathvalidate import sanitize_filename  # takes 30 ms to import

    if not most:
        return ""
    text = unicodedata.normalize("NFC", printable(text).replace("\N{REPLACEMENT CHARACTER}", " "))
    charset = sys.getfilesystemencoding()  # which is ASCII in some locales
    text = text.encode(charset, "replace").decode(charset)  # to question marks, which no name has either
    text = sanitize_filename(" ".join(text.split()).strip(_UNSAFE_ENDS), replacement_text="_", platform="universal")
    return text.encode()[:most].decode(errors="ignore").strip(_UNSAFE_ENDS) or "_"
