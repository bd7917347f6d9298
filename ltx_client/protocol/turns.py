"""Whose turn it is: people with waiting jobs are served one after the other, whatever they submitted, and when.

`turns:{variant}` is a sorted set of `PRIORITY:SUBMITTER`, next first: who has had a turn goes behind the others of that
priority. `line:{variant}:{PRIORITY:SUBMITTER}` is a sorted set of that person's waiting jobs, `MEMORY_CLASS:JOB`, the
oldest first. Both are an index of the ledger, which a worker's script reads when a message has it take a job: what they
say of a job is checked against the job itself, and the reaper adds what is missing. A message, of whichever job, has a
worker take the job whose turn it is; a queue has one for each job. Scripts of both sides keep them by `turns.lua`
(`ltx_client.shared.lua`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltx_client.protocol.names import Names
from ltx_models.memory import memory_class

if TYPE_CHECKING:
    from ltx_client.protocol.jobs import Job

__all__ = ["DEFAULT_PRIORITY", "GIVEN_BACK", "ROUND", "line_entry", "line_keys", "not_on_field", "turn_of"]

DEFAULT_PRIORITY = 5
"""From 0, the first, to 9, the last."""
GIVEN_BACK = 0
"""The priority of a job of which an attempt was made and that waits again."""
ROUND = 10**12
"""Numbers of the turns of one priority; where they are used up, they begin anew."""


def turn_of(job: Job, priority: int | None = None) -> str:
    """Who takes the turn that this job needs, at its own priority or another one."""
    return f"{job.priority if priority is None else priority}:{job.submitter}"


def line_entry(job: Job) -> str:
    """The job in its submitter's line."""
    return f"{memory_class(job.predicted_peak)}:{job.id}"


def line_keys(names: Names, job: Job, priority: int | None = None) -> list[str]:
    """The keys of the line that it waits in and of the turns of its variant."""
    return [names.line(job.variant, turn_of(job, priority)), names.turns(job.variant)]


def not_on_field(worker: str) -> str:
    """The field of a job's record that keeps it from the worker of this name or id."""
    return f"not_on:{worker}"
