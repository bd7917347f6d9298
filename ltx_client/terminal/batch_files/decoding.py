"""Decode a file's bytes to text. A file that is not text is refused with the name of its format."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ltx_client.errors import UsageError
from ltx_client.terminal.batch_files.lines import LINE_END
from ltx_models.files.formats import (
    COMPRESSED,
    GIF,
    HEAD_BYTES,
    HEIF,
    JPEG,
    MATROSKA,
    MOV,
    PNG,
    RIFF,
    WEBP,
    ZIP,
    format_of,
)

__all__ = ["check_suffix", "decode"]

_AS_TABLE = "export it as CSV (UTF-8) and use that file"
_AS_TEXT = "save it as plain text (UTF-8), a prompt a line, and use that file"
_UNPACK = "unpack it first"
_NEITHER = "use a CSV table, JSON, or a text with a prompt a line"

_PACKED = {
    b"xl/workbook": ("an Excel workbook", _AS_TABLE),
    b"word/document": ("a Word document", _AS_TEXT),
    b"opendocument.spreadsheet": ("an OpenDocument spreadsheet", _AS_TABLE),
    b"opendocument.text": ("an OpenDocument text", _AS_TEXT),
    b".iwa": ("a Numbers or Pages document", _AS_TABLE),
}
"""What a ZIP archive is, by the name of a file in it."""
_SIGNATURES = {
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word document", _AS_TABLE),
    b"%PDF": ("a PDF", _AS_TEXT),
    b"{\\rtf": ("rich text", _AS_TEXT),
    b"SQLite format 3": ("an SQLite database", _AS_TABLE),
    b"PAR1": ("a Parquet table", _AS_TABLE),
    b"bplist": ("a property list", _NEITHER),
    b"\x7fELF": ("a program", _NEITHER),
}
"""Signatures of documents and the like. Those of pictures, clips and archives are in `ltx_models.files.formats`."""
_FORMATS = {
    **dict.fromkeys((PNG, JPEG, WEBP, GIF, HEIF), ("a picture", _NEITHER)),
    **dict.fromkeys((MOV, MATROSKA), ("a clip", _NEITHER)),
    RIFF: ("a clip or a sound", _NEITHER),
    **{kind: (kind.name, _UNPACK) for kind in (ZIP, *COMPRESSED)},
}
_MARKUP = re.compile(rb"\s*<(?:!doctype|\?xml|html|table|svg|plist|!--)", re.IGNORECASE)
_FOREIGN = {
    **dict.fromkeys((".yaml", ".yml"), "YAML"),
    **dict.fromkeys((".html", ".htm", ".xml", ".xhtml"), "a web page or XML"),
    ".toml": "TOML",
    ".py": "a program",
}
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the beginning of it
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_LATER_BOM = re.compile("(^|[\r\n])\ufeff+")
"""Byte order marks inside a text, of files that were concatenated."""


def decode(data: bytes, name: str) -> str:
    """Return the text.

    Raises:
        UsageError: The file is not text; the message says what to use.
    """
    _check_signature(data, name)
    encoding = next((encoding for bom, encoding in _BOMS.items() if data.startswith(bom)), "utf-8")
    if encoding in ("utf-8", "utf-8-sig") and b"\0" in data:
        if _is_wide(data):
            raise UsageError(f"{name} looks like UTF-16 without a byte order mark; save it as UTF-8")
        where = _place(data[: data.index(b"\0")].decode("utf-8", "replace"))
        raise UsageError(f"{name}, {where}: there is a NUL byte, so this is not text; {_NEITHER}")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        where = _place(data[: error.start].decode(encoding, "replace"))
        shown = encoding.removesuffix("-sig").upper()
        raise UsageError(
            f"{name}, {where}: the byte 0x{data[error.start]:02X} is not {shown} text; save it as UTF-8 (in Excel:"
            ' "CSV UTF-8")'
        ) from None
    if "\0" in text:
        raise UsageError(f"{name}, {_place(text[: text.index(chr(0))])}: there is a NUL character; remove it")
    return _LATER_BOM.sub(r"\1", text)


def check_suffix(name: str) -> None:
    """Raise UsageError for a file whose name says that its format is not read."""
    if what := _FOREIGN.get(Path(name).suffix.lower()):
        raise UsageError(f"{name} is called {what}, which is not read; {_NEITHER} (--format says which it is)")


def _check_signature(data: bytes, name: str) -> None:
    found = next((found for start, found in _SIGNATURES.items() if data.startswith(start)), None)
    kind = format_of(data[:HEAD_BYTES])
    if kind == ZIP:
        found = next((packed for part, packed in _PACKED.items() if part in data), _FORMATS[kind])
    elif kind in _FORMATS:
        found = _FORMATS[kind]
    elif _MARKUP.match(data[:200].removeprefix(codecs.BOM_UTF8)):
        found = "a web page or XML", _AS_TABLE
    if found:
        raise UsageError(f"{name} is {found[0]}, which is not read; {found[1]}")


def _is_wide(data: bytes) -> bool:
    """Return whether mostly every other byte is zero, and no other is, as in ASCII encoded as UTF-16."""
    zeros = data[:400:2].count(0), data[1:400:2].count(0)
    return min(zeros) == 0 and max(zeros) > len(data[:400]) // 4


def _place(before: str) -> str:
    lines = LINE_END.split(before)
    return f"line {len(lines)}, column {len(lines[-1].lstrip(chr(0xFEFF))) + 1}"
