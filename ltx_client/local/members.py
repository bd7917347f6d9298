"""Who uses the embedded farm: one locked file each, in the farm's folder."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["FarmFolder", "Member", "Membership", "Use"]


class Use(StrEnum):
    """What a member needs of the farm."""

    READ = "read"
    """The server alone: to look at jobs, or to add one."""
    RENDER = "render"
    """A worker too, until this member leaves."""
    UP = "up"
    """The same; a member that `ltx up --stop` ends."""


@dataclass(frozen=True)
class Member:
    """A live process that uses the farm; `variant` is what it wants rendered."""

    pid: int
    use: Use
    variant: str


class Membership:
    """This process's own place among the members; `leave` gives it up, and so does the process's end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path)
        self._lock.acquire(timeout=0)

    def leave(self) -> None:
        """No longer uses the farm."""
        self._path.unlink(missing_ok=True)
        self._lock.release()


class FarmFolder:
    """The files of one embedded farm, under LTX_HOME. A path each, and the locks on them."""

    def __init__(self, home: Path) -> None:
        self.path = home / "farm"
        self.videos = home / "videos"
        self.description = self.path / "farm.json"
        self.keeper_log = self.path / "keeper.log"
        self.worker_log = self.path / "worker.log"
        self._members = self.path / "members"

    def create(self) -> None:
        """Makes the folders; what lies in the farm's own is nobody else's business."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._members.mkdir(exist_ok=True)
        self.videos.mkdir(exist_ok=True)

    def keeper_lock(self) -> FileLock:
        """Held by the keeper as long as it lives."""
        return FileLock(self.path / "keeper.lock")

    def is_kept(self) -> bool:
        """Whether a keeper lives."""
        lock = self.keeper_lock()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def roster_lock(self) -> FileLock:
        """Held while the members change or are counted, so that nobody joins a farm that is about to stop."""
        return FileLock(self.path / "roster.lock")

    def enter(self, use: Use, variant: str) -> Membership:
        """Becomes a member. The caller holds the roster lock."""
        return Membership(self._members / f"{os.getpid()}.{secrets.token_hex(4)}.{use}.{variant}")

    def members(self) -> list[Member]:
        """The live ones; the files of dead ones are removed. The caller holds the roster lock."""
        alive = []
        for path in self._members.iterdir():
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                pid, _, use, variant = path.name.split(".", 3)
                alive.append(Member(int(pid), Use(use), variant))
            else:
                path.unlink(missing_ok=True)
                lock.release()
        return alive
