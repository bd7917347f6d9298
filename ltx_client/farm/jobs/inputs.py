"""Check the pictures and clips that a job reads, and name them by their content."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from ltx_client.errors import UsageError
from ltx_models.errors import MediaError
from ltx_models.families.family import Limits
from ltx_models.files.formats import HEAD_BYTES, format_of, names_of
from ltx_models.media.headers import check_picture
from ltx_models.media.lengths import clip_length, is_only_sound
from ltx_models.media.spans import Span, span_of
from ltx_models.request import ConditioningItem, GenerationRequest

__all__ = ["ClipPart", "Inputs", "address_inputs", "clip_parts"]

Inputs = dict[str, Path]
"""Local files by the SHA-256 of their content, in hex."""

UNKNOWN_LENGTH = 10.0**6
"""Seconds that a clip is assumed to have at least if its header does not say."""
MAX_BYTES = {"image": 64 * 10**6, "video": 10**9}


class ClipPart(NamedTuple):
    """The part of a clip that a job reads.

    Attributes:
        start: Seconds; None if the clip's header does not give its length.
    """

    name: str
    start: float | None
    stop: float | None
    frames: int
    frame: int

    def __str__(self) -> str:
        use = "the video continues from them" if self.frame == 0 else f"they are shown from frame {self.frame} on"
        return f"reads {self._seconds} of {self.name} as {self.frames} frames; {use}"

    @property
    def _seconds(self) -> str:
        if self.start is None or self.stop is None:
            return "the end"
        return f"{self.start:.2f}–{self.stop:.2f} s"


def address_inputs(request: GenerationRequest, limits: Limits | None = None) -> tuple[GenerationRequest, Inputs]:
    """Return the request with its files named by content (`sha256:…`), and those files.

    Args:
        request: A resolved request.
        limits: The limits of its family; None for the first family's.

    Raises:
        UsageError: A file cannot be read, is too large, has too many pixels, or is not of its kind.
        InvalidRequest: A part of a clip is outside it, or leaves nothing to render.
    """
    inputs: Inputs = {}
    items = []
    for item in request.conditioning:
        digest = _checked_digest(Path(item.source), item.kind)
        if item.kind == "video":
            _part_of(item, request, Path(item.source), limits)
        inputs[digest] = Path(item.source)
        items.append(dataclasses.replace(item, source=f"sha256:{digest}"))
    return dataclasses.replace(request, conditioning=tuple(items)), inputs


def clip_parts(request: GenerationRequest, inputs: Inputs, limits: Limits | None = None) -> list[ClipPart]:
    """Return the part that is read of each clip of an addressed request, whose files are in `inputs`.

    Args:
        request: The request.
        inputs: Its files, by digest.
        limits: The limits of its family; None for the first family's.
    """
    parts = []
    for item in request.conditioning:
        path = inputs.get(item.source.removeprefix("sha256:"))
        if item.kind == "video" and path is not None:
            span = _part_of(item, request, path, limits)
            parts.append(_described(item, request, path, span, limits))
    return parts


def _checked_digest(path: Path, kind: str) -> str:
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):  # a pipe would be waited for, and a device may have no end
            raise UsageError(f"cannot read {path}: it is not a file")
        size = status.st_size
        with path.open("rb") as file:
            _check_format(path, kind, file.read(HEAD_BYTES))
            if kind == "image":
                check_picture(file, path)
            if size > MAX_BYTES[kind]:
                raise UsageError(
                    f"{path} has {size / 1e6:,.0f} MB; at most {MAX_BYTES[kind] / 1e6:,.0f} MB are allowed ({kind})"
                )
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except MediaError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _check_format(path: Path, kind: str, head: bytes) -> None:
    name, holds = format_of(head)
    if holds == kind:
        return
    if not head:
        raise UsageError(f"{path} is empty")
    advice = ""
    if holds == "unsupported":
        advice = "; export it as JPEG or PNG"
    elif holds:
        advice = f"; use --{holds} for it"
    else:
        advice = f"; export it as {'PNG' if kind == 'image' else 'MP4'} first"
    article = "an" if kind[0] in "aeiou" else "a"
    raise UsageError(
        f"{path} is not {article} {kind} that can be used: it is {name}, and {names_of(kind)} are read{advice}"
    )


def _part_of(item: ConditioningItem, request: GenerationRequest, path: Path, limits: Limits | None) -> Span | None:
    """Return the part of a clip that a resolved request reads, None if its header does not give its length.

    Raises:
        InvalidRequest: The part is outside the clip, or leaves nothing to render.
        UsageError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if is_only_sound(file):
                raise UsageError(f"{path} has sound but no pictures; use a clip with pictures")
            length = clip_length(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return None if length is None else span_of(item, request, length, str(path), limits)


def _described(
    item: ConditioningItem, request: GenerationRequest, path: Path, span: Span | None, limits: Limits | None
) -> ClipPart:
    known = span or span_of(item, request, UNKNOWN_LENGTH, str(path), limits)
    from_end = span is None and item.start is None and item.frame == 0
    start, stop = (None, None) if from_end else (known.start, known.stop)
    return ClipPart(path.name, start, stop, known.count, item.frame)
