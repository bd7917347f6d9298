"""Find what is wrong with a file or folder that this program uses. Nothing is opened or changed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENTER", "READ", "WRITE", "Problem", "expanded", "problem_with"]

READ, WRITE, ENTER = os.R_OK, os.R_OK | os.W_OK, os.R_OK | os.W_OK | os.X_OK
"""Kinds of access: to read a file, to read and write it, to use a folder."""
_WORDS = {READ: "read", WRITE: "read and write", ENTER: "read and write"}
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


@dataclass(frozen=True)
class Problem:
    """A problem with a path.

    Attributes:
        text: A sentence: which path, what is wrong with it, and what would be right.
        fix: A command.
    """

    text: str
    fix: str


def expanded(path: str | Path) -> Path:
    """Return a path with ~ replaced by a home folder.

    Raises:
        ValueError: This machine does not know whose home folder that is.
    """
    if os.environ.get("HOME") == "" and Path(path).parts[:1] == ("~",):
        raise ValueError("HOME is empty, so ~ is unknown; set HOME, or use a whole path")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{Path(path).parts[0]!r} is not a folder of this machine; set HOME, or use a whole path"
        ) from None


def problem_with(path: Path, is_folder: bool, access: int, called: str = "") -> Problem | None:
    """Return why a path cannot be used; a path that does not exist is not a problem.

    Args:
        path: The path.
        is_folder: Whether it must be a folder.
        access: READ, WRITE or ENTER.
        called: What the path is called in the sentence.
    """
    wanted = "a folder" if is_folder else "a file"
    right = f"there must be {wanted} that this user can {_WORDS[access]}"
    away = f"mv '{path}' '{path}.old'"
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        return Problem(
            f"{called}{path} is a link to {path.readlink()}, which does not exist; {right}, or nothing", away
        )
    except OSError as error:
        return Problem(f"{called}{path} cannot be used: {error.strerror}; {right}, or nothing", away)
    if kind != (stat.S_IFDIR if is_folder else stat.S_IFREG):
        found = _KINDS.get(kind, "something else")
        return Problem(f"{called}{path} is {found}, which is in the way: {right}, or nothing", away)
    if not os.access(path, access):
        fix = f"sudo chown -R \"$(id -un)\" '{path}'; chmod -R u+rwX '{path}'"
        return Problem(f"{called}{path} is forbidden to this user; {right}", fix)
    return None
