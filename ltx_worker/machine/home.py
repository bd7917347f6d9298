"""What a worker keeps in its folder, LTX_HOME, and what is wrong with it: for its start, its probes and its doctor."""

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
"""The process id of a worker that was told to end. Kept where it can be."""
REFUSAL, PASSING_REFUSAL = "not-started", "not-started-yet"
"""Kept where they can be: whatever lies there keeps no worker from starting. The second is of what may be over when the
service manager starts the worker again.
"""
REFUSAL_BYTES = 4096
_KEPT: dict[str, tuple[bool, int]] = {
    LOCK: (False, WRITE),
    PID: (False, WRITE),
    "machine-id": (False, READ),  # these are replaced whole, or left
    "worker.run": (False, READ),
    "link-key": (False, READ),
    "hashes.json": (False, READ),
    "hashes.tmp": (False, WRITE),
    WORK: (True, ENTER),
    SPOOL: (True, ENTER),
}
"""The name of each: whether it is a folder, and what must be allowed."""


class UnusableHome(Exception):
    """What is wrong with an LTX_HOME: a sentence that says what would be right."""


def make_home(home: Path) -> None:
    """Make a worker's folder where there is none. Raise UnusableHome where it, or something in it, cannot be used, and
    OSError where it cannot be made for another reason.
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
    if why := why_not_lockable(home):  # a second worker would start beside the first, as the same one
        raise UnusableHome(f"LTX_HOME {home} {why}")


def note_refusal(home: Path, sentence: str, *, is_final: bool = True) -> None:
    """Keep why a worker did not start, for whoever asks about it, if the folder is there and can be written.

    is_final: no service manager starts it again.
    """
    forget_refusal(home)  # which may be another user's, as of a worker that root has tried by hand
    path = home / (REFUSAL if is_final else PASSING_REFUSAL)
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(sentence.encode(errors="replace")[:REFUSAL_BYTES])


def forget_refusal(home: Path) -> None:
    """Remove what `note_refusal` kept, as where a worker has started."""
    for name in (REFUSAL, PASSING_REFUSAL):
        with contextlib.suppress(OSError):
            (home / name).unlink(missing_ok=True)


def last_refusal(home: Path) -> str:
    """Return why the last worker of this folder did not start; "" where it did, or that cannot be read."""
    return final_refusal(home) or _read_refusal(home / PASSING_REFUSAL)


def final_refusal(home: Path) -> str:
    """Return why the last worker of this folder did not start, where it is not started again; else ""."""
    return _read_refusal(home / REFUSAL)


def _read_refusal(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            return printable(file.read(REFUSAL_BYTES).decode(errors="replace"))
    except OSError:
        return ""


def problems_in(home: Path, names: Iterable[str] = tuple(_KEPT)) -> list[Problem]:
    """Return what is wrong with a worker's folder and with what it keeps there; what is missing is no problem. Nothing
    is opened, and nothing is changed.
    """
    if found := problem_of(home, "LTX_HOME "):
        return [found]
    return [found for name in names if (found := problem_with(home / name, *_KEPT[name]))]


def problem_of(folder: Path, called: str = "") -> Problem | None:
    """Return why a folder cannot be used, if it is there. called: what its path is called in the sentence."""
    return problem_with(folder, True, ENTER, called)
