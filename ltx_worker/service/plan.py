"""Describe what a service consists of as plain data, so that a dry run and a test see what an installation would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Command", "File", "Folder", "Plan", "Setup"]

Command = tuple[str, ...]


@dataclass(frozen=True)
class Setup:
    """The operator's choices.

    Attributes:
        variant: the variant that the worker serves.
        user: the user that it runs as.
        python: the Python of the environment in which ltx-farm is installed, which must not be moved.
        home: the worker's LTX_HOME.
        environment: the file with the worker's settings and passwords, read at each start.
        log_level: the level of its log.
    """

    variant: str
    user: str
    python: Path
    home: Path
    environment: Path
    log_level: str = "INFO"

    def command(self, *more: str) -> Command:
        """Return the command that the service runs."""
        options = ("--variant", self.variant, "--log-level", self.log_level, "--env-file", str(self.environment))
        return (str(self.python), "-m", "ltx_worker", "start", *options, *more)


@dataclass(frozen=True)
class File:
    """A file of the service.

    Attributes:
        path: where it is.
        text: its content.
        mode: its permissions.
        owner: its user.
        keep: whether it is the operator's: it is written once, and neither replaced nor removed.
    """

    path: Path
    text: str = field(repr=False)
    mode: int = 0o644
    owner: str = "root"
    keep: bool = False


@dataclass(frozen=True)
class Folder:
    """A folder that belongs to `owner`, and that stays when the service is removed."""

    path: Path
    mode: int
    owner: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A service: its folders and files, and the commands that manage it.

    Attributes:
        setup: the operator's choices.
        folders: are made, and stay.
        files: are written; the first one is the service's own.
        make_user: makes the user, if it does not exist.
        changed: runs before `enable` if a file of an installed service has changed; it may stop the service.
        enable: makes the service start with the machine.
        start: starts the service.
        unload: stops and removes the service.
        is_loaded: succeeds if the service manager knows the service.
        has_failed: succeeds if the service has ended and is not started again; empty if the manager cannot tell.
        start_timeout: seconds for which `start` is tried again.
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
    start_timeout: float = 0.0

    @property
    def main_file(self) -> Path:
        """Return the file that exists if the service is installed."""
        return self.files[0].path
