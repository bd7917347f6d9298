"""Define what the client raises, and the exit code of each kind of error.

    FarmError                  1
    ├── UsageError             2    the request is invalid
    │   ├── JobNotFound
    │   └── JobConflict
    │       └── IdUsed
    ├── JobFailed              1
    ├── JobCancelled           3
    ├── BrokerError            1    a damaged key, or a command that the broker does not know
    └── Unreachable           69    a server does not answer
        ├── BrokerUnreachable
        └── StorageUnreachable

Messages say what happened, to which job, and what to do next. None contains a password.
"""

from __future__ import annotations

from ltx_client.protocol.text import shown
from ltx_client.shared.console.entry_point import INTERRUPTED

__all__ = [
    "INTERRUPTED",
    "BrokerError",
    "BrokerUnreachable",
    "FarmError",
    "IdUsed",
    "JobCancelled",
    "JobConflict",
    "JobFailed",
    "JobNotFound",
    "StorageUnreachable",
    "Unreachable",
    "UsageError",
]


class FarmError(Exception):
    """Base of every error that `ltx_client` raises on purpose. Its message may be shown, whatever it quotes."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class UsageError(FarmError):
    """The request itself is invalid; trying again unchanged will not help."""

    exit_code = 2


class JobNotFound(UsageError):
    """No job has that id, or several ids end like that."""


class JobConflict(UsageError):
    """Another job has that id."""


class IdUsed(JobConflict):
    """A removed job had that id; what workers wrote about it still exists."""


class JobFailed(FarmError):
    """The job ended without a result."""


class JobCancelled(FarmError):
    """The job was cancelled."""

    exit_code = 3


class BrokerError(FarmError):
    """The broker refuses a command, and will again: a key is damaged, or the command is unknown."""


class Unreachable(FarmError):
    """A server, or something else outside this machine, does not answer."""

    exit_code = 69


class BrokerUnreachable(Unreachable):
    """The broker does not answer, or refuses the connection."""


class StorageUnreachable(Unreachable):
    """The farm's storage does not answer, or lacks a file that it should have."""
