"""Pictures and clips that a job is given: checked to be what they claim, and named by their content."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from ltx_client.errors import UsageError
from ltx_models.errors import MediaError
from ltx_models.media.headers import check_picture
from ltx_models.request import GenerationRequest

__all__ = ["Inputs", "address_inputs"]

Inputs = dict[str, Path]
"""Local files by the SHA-256 of their content, in hex."""

MAX_BYTES = {"image": 64 * 10**6, "video": 10**9}
HEADER_BYTES = 32
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")


def _is_iso_media(header: bytes) -> bool:
    return header[4:8] == b"ftyp"


SIGNATURES: dict[str, tuple[str, Callable[[bytes], bool]]] = {
    "PNG": ("image", lambda header: header.startswith(b"\x89PNG\r\n\x1a\n")),
    "JPEG": ("image", lambda header: header.startswith(b"\xff\xd8\xff")),
    "WebP": ("image", lambda header: header.startswith(b"RIFF") and header[8:12] == b"WEBP"),
    "HEIC or AVIF": ("unsupported", lambda header: _is_iso_media(header) and header[8:12] in HEIF_BRANDS),
    "MP4 or MOV": ("video", lambda header: _is_iso_media(header) or header[4:8] in (b"moov", b"mdat", b"wide")),
    "WebM or Matroska": ("video", lambda header: header.startswith(b"\x1a\x45\xdf\xa3")),
    "GIF": ("video", lambda header: header.startswith((b"GIF87a", b"GIF89a"))),
}
"""How files of each format begin, and what they hold. The first that matches counts."""


def address_inputs(request: GenerationRequest) -> tuple[GenerationRequest, Inputs]:
    """The request with its files named by content (`sha256:…`), and those files.

    Raises UsageError for a file that cannot be read, is too large or has too many pixels, or is not what it is given
    as.
    """
    inputs: Inputs = {}
    items = []
    for item in request.conditioning:
        digest = _checked_digest(Path(item.source), item.kind)
        inputs[digest] = Path(item.source)
        items.append(dataclasses.replace(item, source=f"sha256:{digest}"))
    return dataclasses.replace(request, conditioning=tuple(items)), inputs


def _checked_digest(path: Path, kind: str) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            _check_format(path, kind, file.read(HEADER_BYTES))
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


def _check_format(path: Path, kind: str, header: bytes) -> None:
    name, holds = next(
        ((name, holds) for name, (holds, matches) in SIGNATURES.items() if matches(header)), ("unknown format", "")
    )
    if holds == kind:
        return
    known = ", ".join(name for name, (holds, _) in SIGNATURES.items() if holds == kind)
    if holds == "unsupported":
        advice = "; export it as JPEG or PNG first"
    elif holds:
        advice = f"; give it with --{holds}"
    else:
        advice = ""
    article = "an" if kind[0] in "aeiou" else "a"
    raise UsageError(f"{path} is not {article} {kind} that can be used: it is {name}, and {known} are read{advice}")
