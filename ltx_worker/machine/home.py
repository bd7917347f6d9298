"""Make and check a worker's folder, LTX_HOME: for its start, its probes and its doctor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from ltx_client.protocol.text import printable
from ltx_client.shared.own_files import ENTER, READ, WRITE, Problem, problem_with
from ltx_models.files.file_lock import why_not_lockable
from ltx_models.files.volumes import unmounted_volume

__all__ = [
    "ENDING",
    "LOCK",
    "PID",
    "SPOOL",
    "WORK",
    "UnusableHome",
    "final_refusal",
    "forget_refusal",
    "last_refusal",
    "make_home",
    "note_refusal",
    "problem_of",
    "problems_in",
]

LOCK, PID, WORK, SPOOL = "worker.lock", "worker.pid", "work", "spool"
ENDING = "worker.ending"
"""The file with the process id of a worker that was asked to end; it may be missing where it cannot be written."""
REFUSAL, PASSING_REFUSAL = "not-started", "not-started-yet"
"""The files that say why a worker did not start; they may be missing where they cannot be written.

The second is for a reason that may be over when the service manager starts the worker again.
"""
REFUSAL_BYTES = 4096
_KEPT: dict[str, tuple[bool, int]] = {
    LOCK: (False, WRITE),
    PID: (False, WRITE),
    "machine-id": (False, READ),  # these are replaced whole, or left as they are
    "worker.run": (False, READ),
    "link-key": (False, READ),
    "hashes.json": (False, READ),
    "hashes.tmp": (False, WRITE),
    WORK: (True, ENTER),
    SPOOL: (True, ENTER),
}
"""The files and folders by name: whether each is a folder, and which access the worker needs."""


class UnusableHome(Exception):
    """A worker's LTX_HOME cannot be used; the message says why and what would be right."""


def make_home(home: Path) -> None:
    """Make a worker's folder if it is missing, and check it.

    Raises:
        UnusableHome: the folder, or something in it, cannot be used.
        OSError: the folder cannot be made for another reason.
    """
    if not os.path.lexists(home):
        if volume := unmounted_volume(home):
            raise UnusableHome(f"LTX_HOME {home} cannot be made: nothing is mounted at {volume}")
        try:
            home.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UnusableHome(
                f"LTX_HOME {home} cannot be made: {error.strerror}: {error.filename}; set LTX_HOME to a folder that"
                " this user can write"
            ) from error
    if found := problems_in(home):
        raise UnusableHome(found[0].text)
    if why := why_not_lockable(home):  # a second worker would start under the same identity
        raise UnusableHome(f"LTX_HOME {home} {why}")


def note_refusal(home: Path, sentence: str, *, is_final: bool = True) -> None:
    """Write into a worker's folder why it did not start, if the folder exists and can be written.

    Args:
        home: the worker's LTX_HOME.
        sentence: the reason.
        is_final: whether no service manager starts the worker again.
    """
    forget_refusal(home)  # which may be another user's, such as root's who has tried a worker by hand
    path = home / (REFUSAL if is_final else PASSING_REFUSAL)
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(sentence.encode(errors="replace")[:REFUSAL_BYTES])


def forget_refusal(home: Path) -> None:
    """Remove what `note_refusal` wrote, for example when a worker has started."""
    for name in (REFUSAL, PASSING_REFUSAL):
        with contextlib.suppress(OSError):
            (home / name).unlink(missing_ok=True)


def last_refusal(home: Path) -> str:
    """Return why the last worker of this folder did not start; "" if it did, or the reason cannot be read."""
    return final_refusal(home) or _read_refusal(home / PASSING_REFUSAL)


def final_refusal(home: Path) -> str:
    """Return why the last worker of this folder did not start and is not started again; else ""."""
    return _read_refusal(home / REFUSAL)


def _read_refusal(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            return printable(file.read(REFUSAL_BYTES).decode(errors="replace"))
    except OSError:
        return ""


def problems_in(home: Path, names: Iterable[str] = tuple(_KEPT)) -> list[Problem]:
    """Return what is wrong with a worker's folder and the files in it, without opening or changing any.

    A missing file is no problem.
    """
    if found := problem_of(home, "LTX_HOME "):
        return [found]
    return [found for name in names if (found := problem_with(home / name, *_KEPT[name]))]


def problem_of(folder: Path, called: str = "") -> Problem | None:
    """Return why an existing folder cannot be used; None if it can, or is missing.

    Args:
        folder: the folder.
        called: the words before its path in the sentence.
    """
    return problem_with(folder, True, ENTER, called)
