"""What the client raises, and the exit code that each kind of error means.

    FarmError                  1
    ├── UsageError             2    what was asked for cannot be right
    │   ├── JobNotFound
    │   └── JobConflict
    │       └── IdUsed
    ├── JobFailed              1
    ├── JobCancelled           3
    ├── BrokerError            1    a damaged key, or a command that the broker does not know
    └── Unreachable           69    the outside world is not there
        ├── BrokerUnreachable
        └── StorageUnreachable

Messages say what happened, to which job, and what to do next. None holds a password.
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
    """The request itself is wrong; trying again as it is will not help."""

    exit_code = 2


class JobNotFound(UsageError):
    """No job has that id, or more than one id ends so."""


class JobConflict(UsageError):
    """The id belongs to another job already."""


class IdUsed(JobConflict):
    """The id was a job's that is removed; what workers wrote of it is still there."""


class JobFailed(FarmError):
    """The job ended without a result."""


class JobCancelled(FarmError):
    """The job was cancelled."""

    exit_code = 3


class BrokerError(FarmError):
    """The broker refuses a command, and will again: a key is damaged, or the command is unknown to it."""


class Unreachable(FarmError):
    """Something outside this machine, or a server on it, does not answer."""

    exit_code = 69


class BrokerUnreachable(Unreachable):
    """The broker does not answer, or refuses us."""


class StorageUnreachable(Unreachable):
    """The farm's storage does not answer, or does not hold a file that it should."""
