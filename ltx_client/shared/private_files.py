"""Read and write small files that only their owner may read, such as keys and passwords, never half of one."""

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
    """Replace a file in one step that survives a power cut; its mode is 0600 from its first byte on. Follow a link.

    Raises:
        OSError: It cannot be written, or something other than a file is there, such as a device.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path = destination(path)
    if kind_of(path) not in (0, stat.S_IFREG):
        raise OSError(errno.EINVAL, "what is there is not a file", str(path))
    replace_file(path, text)
    with contextlib.suppress(OSError):
        flush(str(path.parent))


def replace_file(path: Path, text: str, mode: int = 0o600, prepare: Callable[[Path], object] | None = None) -> None:
    """Replace a file, or a link, in one step by a new one, whose content is on the disk by then.

    Args:
        path: The file.
        text: Its content.
        mode: Its mode, whatever the umask; nobody else may read it before the content is complete.
        prepare: Called with the new file before it gets its name, such as to give it to another user.

    Raises:
        OSError: It cannot be written, and is unchanged. What `prepare` raises is raised too.
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
    """Return the content of such a file; empty if it does not exist.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            return file.read(LONGEST).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a named pipe that nobody writes to is empty."""
    return os.open(path, flags | os.O_NONBLOCK)


def drawn_once(path: Path, pattern: str, draw: Callable[[], str]) -> str:
    """Return the word in a file, or write the one that `draw` returns there first, if there is none.

    A word that does not match `pattern` as a whole is replaced. A file that exists but cannot be read is left as it is.

    Raises:
        OSError: The file cannot be read or written.
    """
    word = read_word(path)
    if not re.fullmatch(pattern, word):
        word = draw()
        write_private(path, word)
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return word
