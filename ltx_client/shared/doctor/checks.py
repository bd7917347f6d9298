"""Define a doctor's checks: small functions, each of which reports what it found and how to fix it.

The client's checks are in `ltx_client.terminal.client_checks`; a worker adds its own.
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
    """The farm works, but not as well or as safely as it could."""
    FAILURE = "failure"
    """Something that was configured cannot work."""


@dataclass(frozen=True)
class Finding:
    """One line of a doctor's report.

    Attributes:
        about: What was checked, in a word or two.
        text: What was found; never a secret.
        fix: The command, or the line of a configuration, that fixes it; empty if nothing is wrong.
    """

    about: str
    level: Level
    text: str
    fix: str = ""


Check = Callable[[], Iterable[Finding]]
"""Checks one thing. Finds nothing if it does not apply, and raises no error that can be foreseen."""


def run_checks(checks: Iterable[Check]) -> Iterator[Finding]:
    """Yield the findings in order, each as soon as it is found. A check that raises is a failure; the others run."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a doctor must not die of what it examines
            about = getattr(check, "__name__", "check").strip("_").replace("_", " ")
            yield Finding(about, Level.FAILURE, f"the check itself failed: {type(error).__name__}: {error}")


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level of all findings; OK if there are none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
