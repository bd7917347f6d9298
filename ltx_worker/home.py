"""What a worker keeps in its folder, LTX_HOME, and what is wrong with it: for its start, its probes and its doctor."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LOCK", "PID", "SPOOL", "WORK", "Problem", "UnusableHome", "make_home", "problem_of", "problems_in"]

LOCK, PID, WORK, SPOOL = "worker.lock", "worker.pid", "work", "spool"
_READ, _WRITE, _ENTER = os.R_OK, os.R_OK | os.W_OK, os.R_OK | os.W_OK | os.X_OK
_KEPT: dict[str, tuple[bool, int]] = {
    LOCK: (False, _WRITE),
    PID: (False, _WRITE),
    "machine-id": (False, _READ),  # these are replaced whole, or left
    "worker.run": (False, _READ),
    "link-key": (False, _READ),
    "hashes.json": (False, _READ),
    "hashes.tmp": (False, _WRITE),
    WORK: (True, _ENTER),
    SPOOL: (True, _ENTER),
}
"""The name of each: whether it is a folder, and what must be allowed."""
_WORDS = {_READ: "read", _WRITE: "read and write", _ENTER: "read and write"}
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


class UnusableHome(Exception):
    """What is wrong with an LTX_HOME: a sentence that says what would be right."""


@dataclass(frozen=True)
class Problem:
    """text: a sentence: which path, what is wrong with it, and what would be right.  mend: a command."""

    text: str
    mend: str


def make_home(home: Path) -> None:
    """Make a worker's folder where there is none. Raise UnusableHome where it, or something in it, cannot be used, and
    OSError where it cannot be made for another reason.
    """
    if not os.path.lexists(home):
        try:
            home.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UnusableHome(
                f"LTX_HOME {home} cannot be made: {error.strerror}: {error.filename}; set LTX_HOME to a folder that"
                " this user can write"
            ) from error
    if found := problems_in(home):
        raise UnusableHome(found[0].text)


def problems_in(home: Path, names: Iterable[str] = tuple(_KEPT)) -> list[Problem]:
    """Return what is wrong with a worker's folder and with what it keeps there; what is missing is no problem. Nothing
    is opened, and nothing is changed.
    """
    if found := problem_of(home, "LTX_HOME "):
        return [found]
    return [found for name in names if (found := _problem(home / name, *_KEPT[name]))]


def problem_of(folder: Path, called: str = "") -> Problem | None:
    """Return why a folder cannot be used, if it is there. called: what its path is called in the sentence."""
    return _problem(folder, True, _ENTER, called)


def _problem(path: Path, is_folder: bool, access: int, called: str = "") -> Problem | None:
    wanted = "a folder" if is_folder else "a file"
    right = f"there must be {wanted} that this user can {_WORDS[access]}"
    away = f"mv '{path}' '{path}.old'"
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        return Problem(f"{called}{path} is a link to {path.readlink()}, where nothing is; {right}, or nothing", away)
    except OSError as error:
        return Problem(f"{called}{path} cannot be used: {error.strerror}; {right}, or nothing", away)
    if kind != (stat.S_IFDIR if is_folder else stat.S_IFREG):
        found = _KINDS.get(kind, "something else")
        return Problem(f"{called}{path} is {found}, and that is in the way: {right}, or nothing", away)
    if not os.access(path, access):
        mend = f"sudo chown -R \"$(id -un)\" '{path}'; chmod -R u+rwX '{path}'"
        return Problem(f"{called}{path} is forbidden to this user; {right}", mend)
    return None
