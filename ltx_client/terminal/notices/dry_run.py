"""Print what jobs would need and when they would be done, without submitting them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.forecast import Place, places
from ltx_client.farm.jobs.views import JobView
from ltx_client.local.members import Use
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.state import Snapshot
from ltx_client.shared.settings import FarmSettings
from ltx_client.terminal.notices.wait_reasons import tell_of_pauses, tell_who_waits
from ltx_client.terminal.output import duration, print_facts
from ltx_models.memory import USABLE_PART, machine_memory, memory_class

__all__ = ["print_plan"]


def print_plan(
    settings: FarmSettings, jobs: Sequence[Job], after: Sequence[str] = (), not_on: Sequence[str] = ()
) -> None:
    """Print, for each kind of job among these: its memory, which workers serve it, and how long it takes.

    Args:
        settings: The farm's.
        jobs: The jobs.
        after: Jobs and batches that they would depend on.
        not_on: Workers that would be excluded.

    Raises:
        FarmError: As from `Farm.relations`.
    """
    counts = Counter(map(_kind, jobs))
    if settings.broker_url is None:
        if after or not_on:
            with Farm.connect(settings, Use.READ) as farm:
                relations = farm.relations(after, not_on)
                tell_who_waits(farm, [(job, relations) for job in _kinds(jobs)])
        print_facts(*_in_all(counts), *(_alone(job, counts[_kind(job)]) for job in _kinds(jobs)))
        return
    with Farm.connect(settings, Use.READ) as farm:
        relations = farm.relations(after, not_on)
        if relations.not_on:
            tell_who_waits(farm, [(job, relations) for job in _kinds(jobs)])
        else:
            tell_of_pauses(farm, (job.variant for job in jobs))
        workers = farm.workers()
        open_jobs, paces = farm.open_jobs_and_paces()
        now = farm.now()
        turns = farm.turns({view.job.variant for view in open_jobs})
    asked = [JobView(job, now, Snapshot(), cancel_asked=False, leased=False, relations=relations) for job in jobs]
    found = places([*open_jobs, *asked], workers, paces, now, turns)
    rows = _in_all(counts)
    places_of: dict[tuple[Any, ...], list[Place]] = defaultdict(list)
    for job in jobs:
        places_of[_kind(job)].append(found[job.id])
    for job in _kinds(jobs):
        kept = [worker for worker in workers if not relations.excludes(worker.id, worker.name)]
        able = [worker.name for worker in kept if worker.serves(job)]
        alike = places_of[_kind(job)]
        ends = [place.starts_in + place.takes for place in alike if place.starts_in is not None and place.takes]
        takes = alike[0].takes
        rows.append(
            {
                **_needs(job, counts[_kind(job)]),
                "served by": ", ".join(able) or "nobody now",
                "each takes": f"about {duration(takes)}" if takes else "unknown: no such render was measured yet",
                "all done in": f"about {duration(max(ends))}" if ends and len(ends) == len(alike) else "",
            }
        )
    print_facts(*rows)


def _kind(job: Job) -> tuple[Any, ...]:
    request = job.request
    return job.variant, request.width, request.height, request.num_frames, request.num_steps


def _kinds(jobs: Sequence[Job]) -> list[Job]:
    return list({_kind(job): job for job in jobs}.values())


def _needs(job: Job, count: int) -> dict[str, str]:
    request = job.request
    return {
        "videos": str(count),
        "variant": job.variant,
        "video": f"{request.width}x{request.height}, {request.num_frames} frames, {request.num_steps} steps",
        "memory": f"{job.predicted_peak / 1e9:.2g} GB (class {memory_class(job.predicted_peak)})",
    }


def _in_all(counts: Counter[tuple[Any, ...]]) -> list[dict[str, str]]:
    """Return the number of videos, if they are of several kinds."""
    return [{"videos in all": str(counts.total())}] if len(counts) > 1 else []


def _alone(job: Job, count: int) -> dict[str, str]:
    usable = machine_memory() * USABLE_PART
    fits = memory_class(job.predicted_peak) * 1e9 <= usable
    return {
        **_needs(job, count),
        "served by": "this machine" if fits else f"not this machine: {usable / 1e9:.0f} GB usable",
    }
