"""Small files that only their owner may read, such as keys and passwords: whole, and on the disk, or as they were."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from ltx_client.shared.storage.folder import flush
from ltx_models.files.output_files import destination, kind_of

__all__ = ["drawn_once", "read_word", "replace_file", "write_private"]

LONGEST = 4096
"""Bytes of such a file that are read."""


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, which outlives a power cut; mode 0600 from its first byte on. A link is followed.
    Raise OSError, also where something is that is no file, such as a device.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path = destination(path)
    if kind_of(path) not in (0, stat.S_IFREG):
        raise OSError(errno.EINVAL, "what is there is no file", str(path))
    replace_file(path, text)
    with contextlib.suppress(OSError):
        flush(str(path.parent))


def replace_file(path: Path, text: str, mode: int = 0o600, prepare: Callable[[Path], object] | None = None) -> None:
    """Replace a file, or a link, in one step by a new one, whose content is on the disk by then. Raise OSError, and all
    is as it was then.

    mode: whatever the umask; nobody else may read it before the content is whole.  prepare: what is done with the new
    file before it has its name, such as to give it to another user; what that raises is raised.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        if prepare:
            prepare(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_word(path: Path) -> str:
    """Return what such a file holds; nothing where there is none. Raise OSError."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            return file.read(LONGEST).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _open_at_once(path: str, flags: int) -> int:
    """A named pipe that nobody writes to is empty; it is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def drawn_once(path: Path, pattern: str, draw: Callable[[], str]) -> str:
    """Return the word in a file; where there is no file, or one whose word does not match `pattern` whole, write the
    one that `draw` gives there, and return that.

    A file that is there and cannot be read for now is left as it is. Raise OSError.
    """
    word = read_word(path)
    if not re.fullmatch(pattern, word):
        word = draw()
        write_private(path, word)
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return word
