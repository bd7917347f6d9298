"""What a doctor looks at: small checks, each of which says what it found and the command that mends it.

The client's checks are in `ltx_client.terminal.client_checks`; a worker adds its own to the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Check", "Finding", "Level", "run_checks", "worst"]


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """The farm works, not as well or as safely as it could."""
    FAILURE = "failure"
    """Something that was asked for cannot work."""


@dataclass(frozen=True)
class Finding:
    """One line of a doctor's report.

    about: what was looked at, a word or two.  text: what was found; never a secret.  mend: the command, or the line of
    a configuration, that mends it; empty for what is well.
    """

    about: str
    level: Level
    text: str
    mend: str = ""


Check = Callable[[], Iterable[Finding]]
"""Looks at one thing. Finds nothing where the thing does not apply, and raises nothing that it can foresee."""


def run_checks(checks: Iterable[Check]) -> Iterator[Finding]:
    """The findings in order, each as soon as it is there. A check that breaks is a failure, and the others go on."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a doctor must not die of what it examines
            about = getattr(check, "__name__", "check").strip("_").replace("_", " ")
            yield Finding(about, Level.FAILURE, f"the check itself broke: {type(error).__name__}: {error}")


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of all; OK of none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
