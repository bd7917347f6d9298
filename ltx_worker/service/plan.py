"""What a service consists of: plain data, so that a dry run and a test see what an installation would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Command", "File", "Folder", "Plan", "Setup"]

Command = tuple[str, ...]


@dataclass(frozen=True)
class Setup:
    """What the operator chose. python: of the environment that ltx-farm is installed in; it must not move.

    environment: the file with the farm's address and passwords, which is read at each start.
    """

    variant: str
    user: str
    python: Path
    home: Path
    environment: Path
    log_level: str = "INFO"

    def command(self, *more: str) -> Command:
        """What the service runs."""
        options = ("--variant", self.variant, "--log-level", self.log_level, "--env-file", str(self.environment))
        return (str(self.python), "-m", "ltx_worker", "start", *options, *more)


@dataclass(frozen=True)
class File:
    """A file of the service. keep: it is written once, and neither replaced nor removed, for it is the operator's."""

    path: Path
    text: str = field(repr=False)
    mode: int = 0o644
    owner: str = "root"
    keep: bool = False


@dataclass(frozen=True)
class Folder:
    """A folder that belongs to `owner`; it stays when the service is removed."""

    path: Path
    mode: int
    owner: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A service. make_user: run where there is no such user.  enable: has it start with the machine.  start: starts it.

    changed: run before `enable` where a file of a service that was there has changed; it may stop the service.
    unload: stops and forgets it.  is_loaded: succeeds where the service manager has it.  has_failed: succeeds where the
    service has ended and is not started again, for managers that can tell.  patience: seconds that `start` is tried
    again, for managers that are not ready at once.
    """

    setup: Setup
    folders: tuple[Folder, ...]
    files: tuple[File, ...]
    make_user: tuple[Command, ...]
    changed: tuple[Command, ...]
    enable: tuple[Command, ...]
    start: tuple[Command, ...]
    unload: tuple[Command, ...]
    is_loaded: Command
    has_failed: Command = ()
    patience: float = 0.0

    @property
    def main_file(self) -> Path:
        """The one whose presence says that the service is installed."""
        return self.files[0].path
