"""Track who uses the embedded farm: each member has a locked file in the farm's folder."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ltx_client.local.address import Address
from ltx_client.local.server_lock import ServerLock
from ltx_client.local.videos import make_storage
from ltx_client.shared.own_files import ENTER, WRITE, Problem, problem_with
from ltx_models.files.volumes import check_mounted

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["FarmFolder", "Member", "Membership", "Use"]


class Use(StrEnum):
    """What a member needs of the farm."""

    READ = "read"
    """The server alone: to read jobs, or to add one."""
    RENDER = "render"
    """A worker too, until this member leaves."""
    UP = "up"
    """A worker too; a member that `ltx up --stop` ends."""


@dataclass(frozen=True)
class Member:
    """A live process that uses the farm; `variant` is what it wants rendered."""

    pid: int
    use: Use
    variant: str


_MEMBER = re.compile(rf"(?P<pid>\d+)\.[0-9a-f]+\.(?P<use>{'|'.join(Use)})\.(?P<variant>.+)")


def _lock(path: Path) -> FileLock:
    """Return the lock on a path. The library is imported here, since clients of other farms do not need it."""
    from filelock import FileLock

    return FileLock(path, thread_local=False)  # a member may leave in another thread, as an AsyncFarm does


class Membership:
    """The own membership of a process; `leave` ends it, and so does the process's end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = _lock(path)
        self._lock.acquire(timeout=0)

    def leave(self) -> None:
        """Stop using the farm."""
        self._path.unlink(missing_ok=True)
        self._lock.release()


class FarmFolder:
    """The files of one embedded farm, under LTX_HOME, and the locks on them."""

    def __init__(self, home: Path) -> None:
        self.path = home / "farm"
        self.videos = home / "videos"
        self.videos_note = self.path / "videos-id"
        self.description = self.path / "farm.json"
        self.keeper_log = self.path / "keeper.log"
        self.worker_log = self.path / "worker.log"
        self.server_log = self.path / "valkey.log"
        self.refusal = self.path / "refusal"
        self.journal = self.path / "appendonlydir"
        self.server_lock = ServerLock(self.path / "server.lock")
        self._members = self.path / "members"

    def problems(self) -> list[Problem]:
        """Return what is wrong with the existing files, except the server's data."""
        for folder in (self.path.parent, self.path):
            if problem := problem_with(folder, True, ENTER):
                return [problem]
        lying = [problem_with(path, True, ENTER) for path in (self.videos, self._members)]
        names = ("server.lock", "keeper.lock", "roster.lock")
        files = [self.description, self.videos_note, self.keeper_log, self.worker_log, self.server_log, self.refusal]
        lying += [problem_with(path, False, WRITE) for path in (*files, *(self.path / name for name in names))]
        return [problem for problem in lying if problem]

    def create(self) -> None:
        """Create the folders; the farm's own is closed to other users.

        Raises:
            StorageUnreachable: The folder for videos cannot be created.
        """
        check_mounted(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self._members.mkdir(exist_ok=True)
        make_storage(self.videos, self.videos_note)

    def keeper_lock(self) -> FileLock:
        """Return the lock that the keeper has as long as it lives."""
        return _lock(self.path / "keeper.lock")

    def is_kept(self) -> bool:
        """Return whether a keeper lives."""
        from filelock import Timeout

        lock = self.keeper_lock()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def address(self) -> Address | None:
        """Return where the farm's server is; None unless it is certain that the port is still the server's.

        The lock is checked before anything is sent: the description may be left from a killed server whose port another
        program uses by now. A keeper removes an old description before its own server takes the lock.
        """
        runs = self.server_lock.is_taken()
        address = Address.read(self.description)
        if address is not None and not address.locked:
            runs = self.is_kept()
        return address if runs else None

    def why_refused(self) -> str:
        """Return why the worker does not start, and will not, in its own sentence; empty if it does."""
        try:
            return self.refusal.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def roster_lock(self) -> FileLock:
        """Return the lock for changing or counting members, so that nobody joins a farm that is about to stop."""
        return _lock(self.path / "roster.lock")

    def enter(self, use: Use, variant: str) -> Membership:
        """Become a member. The caller has the roster lock."""
        return Membership(self._members / f"{os.getpid()}.{secrets.token_hex(4)}.{use}.{variant}")

    def members(self) -> list[Member]:
        """Return the live members, and remove the files of dead ones. The caller has the roster lock."""
        from filelock import Timeout

        alive = []
        for path in self._members.iterdir():
            match = _MEMBER.fullmatch(path.name)
            if match is None:  # a file manager's
                continue
            lock = _lock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                alive.append(Member(int(match["pid"]), Use(match["use"]), match["variant"]))
            else:
                path.unlink(missing_ok=True)
                lock.release()
        return alive
