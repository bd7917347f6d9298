"""Define the index of turns: people with waiting jobs are served one after the other, whatever they submitted and when.

`turns:{variant}` is a sorted set of `PRIORITY:SUBMITTER`, the next first: whoever had a turn moves behind the others of
that priority. `line:{variant}:{PRIORITY:SUBMITTER}` is a sorted set of that person's waiting jobs, `CLASS:JOB`, the
oldest first. CLASS is the job's memory class, plus LEVEL_STEP times the level of its features: a worker passes over
classes that are not its own, so an older one leaves jobs of higher levels alone
(`ltx_client.protocol.versions.features`). Both are an index of the ledger. A worker's script reads it when a message
tells the worker to take a job; each entry is checked against the job itself, and the reaper adds missing ones. A
message, of whichever job, makes a worker take the job whose turn it is; a queue has one message for each job. Scripts
of both sides update the index with `turns.lua` (`ltx_client.shared.lua`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltx_client.protocol.names import Names
from ltx_models.memory import memory_class

if TYPE_CHECKING:
    from ltx_client.protocol.jobs import Job

__all__ = [
    "DEFAULT_PRIORITY",
    "GIVEN_BACK",
    "ROUND",
    "line_class",
    "line_entry",
    "line_keys",
    "not_on_field",
    "parse_entry",
    "turn_of",
]

DEFAULT_PRIORITY = 5
"""From 0, the first, to 9, the last."""
GIVEN_BACK = 0
"""The priority of a job that was requeued after an attempt."""
ROUND = 10**12
"""How many turns one priority can number; when all are used up, numbering starts again."""
LEVEL_STEP = 1000
"""More than any memory class."""


def turn_of(job: Job, priority: int | None = None) -> str:
    """Return the turn that a job needs, as PRIORITY:SUBMITTER, at its own priority or another one."""
    return f"{job.priority if priority is None else priority}:{job.submitter}"


def line_entry(job: Job) -> str:
    """Return the job's entry in its submitter's line."""
    return f"{line_class(memory_class(job.predicted_peak), job.level)}:{job.id}"


def line_class(memory_gb: int, level: int) -> int:
    """Return the class in the entries of a memory class's jobs at one level of features."""
    return memory_gb + LEVEL_STEP * level


def parse_entry(entry: str) -> tuple[int, int, str]:
    """Return the memory class, the level and the job's id of an entry.

    Raises:
        ValueError: It is not an entry.
    """
    number, _, job_id = entry.partition(":")
    level, memory_gb = divmod(int(number), LEVEL_STEP)
    return memory_gb, level, job_id


def line_keys(names: Names, job: Job, priority: int | None = None) -> list[str]:
    """Return the keys of the line that a job waits in and of the turns of its variant."""
    return [names.line(job.variant, turn_of(job, priority)), names.turns(job.variant)]


def not_on_field(worker: str) -> str:
    """Return the field of a job's record that excludes the worker with this name or id."""
    return f"not_on:{worker}"
