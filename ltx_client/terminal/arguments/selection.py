"""Select the jobs that a command's arguments name: single jobs, or those of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltx_client.errors import UsageError

if TYPE_CHECKING:
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.views import JobView

__all__ = ["select", "select_ids"]


def select(farm: Farm, jobs: Sequence[str], batch: str | None) -> list[JobView]:
    """Return the jobs with these names, and those that stand for the batch's videos now.

    Raises:
        UsageError: Nothing was named.
    """
    _check_named(jobs, batch)
    named = [farm.view(farm.find(job)) for job in jobs]
    return named + (farm.batch(batch).views if batch is not None else [])


def select_ids(farm: Farm, jobs: Sequence[str], batch: str | None) -> list[str]:
    """Return the ids of what `select` returns, for what needs no more of a job: this version need not read its record.

    Raises:
        UsageError: Nothing was named.
    """
    _check_named(jobs, batch)
    named = [farm.find(job) for job in jobs]
    return named + ([view.job.id for view in farm.batch(batch).views] if batch is not None else [])


def _check_named(jobs: Sequence[str], batch: str | None) -> None:
    if not jobs and batch is None:
        raise UsageError("name a JOB (see ltx jobs), or a batch with --batch")
