"""Tell a person that jobs will wait: for a worker that takes them, or for the end of a pause."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence

from ltx_client.errors import FarmError
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.obstacles import unknown_workers, why_not_taken
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.protocol.jobs import Job, Relations
from ltx_client.protocol.state import Status
from ltx_client.protocol.versions.features import CLIP_PARTS, needed_features
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.terminal.output import notice, pause_text, short_id

__all__ = ["explain_waits", "tell_of_pauses", "tell_who_waits"]

ASK_EVERY = 5.0
"""Seconds between two checks why a job still waits."""


def tell_of_pauses(farm: Farm, variants: Iterable[str]) -> list[str]:
    """Say which of these variants' queues are paused, and return their names."""
    wanted = set(variants)
    paused = [pause for pause in farm.pauses() if pause.of == "queue" and pause.id in wanted] if wanted else []
    for pause in paused:
        notice(f"warning: {pause_text(pause, farm.now())}, and its jobs wait until then")
    return [pause.id for pause in paused]


def tell_who_waits(farm: Farm, jobs: Iterable[tuple[Job, Relations]]) -> None:
    """Say which of these submitted jobs no worker will take for now, and why."""
    jobs = list(jobs)
    alike = {
        (job.queue, needed_features(job), job.predicted_peak, relations.not_on): (job, relations)
        for job, relations in jobs
    }
    paused = tell_of_pauses(farm, (job.variant for job, _ in alike.values()))
    workers = farm.workers()
    _tell_of_older(workers, [job for job, _ in jobs])
    found = [
        sentence
        for job, relations in alike.values()
        for sentence in (
            unknown_workers(relations, workers),
            "" if job.variant in paused else why_not_taken(job, relations, workers, embedded=farm.is_embedded),
        )
    ]
    for sentence in filter(None, dict.fromkeys(found)):
        notice(f"warning: {sentence}")


def _tell_of_older(workers: Sequence[WorkerInfo], jobs: Collection[Job]) -> None:
    """Say which workers would read other parts of these jobs' clips than this client means."""
    with_clips = [job for job in jobs if any(item.kind == "video" for item in job.request.conditioning)]
    for worker in workers:
        if any(worker.has_room(job) for job in with_clips) and CLIP_PARTS not in worker.features.split():
            notice(
                f"warning: {worker.name} has an older ltx-farm, which reads clips from their beginning: upgrade it,"
                f" or exclude it (--not-on {worker.name})"
            )


def explain_waits(farm: Farm, updates: Iterable[Update]) -> Iterator[Update]:
    """Yield the updates; say meanwhile why a job still waits that no worker takes, each reason once."""
    waiting: dict[str, JobView] = {}
    told: set[str] = set()
    ask_at = time.monotonic() + ASK_EVERY
    for update in updates:
        yield update
        if update.view.status is Status.QUEUED:
            waiting[update.view.job.id] = update.view
        else:
            waiting.pop(update.view.job.id, None)
        if waiting and time.monotonic() >= ask_at:
            told |= _tell_why(farm, waiting, told)
            ask_at = time.monotonic() + ASK_EVERY


def _tell_why(farm: Farm, waiting: dict[str, JobView], told: set[str]) -> set[str]:
    """Say why these jobs wait, unless it was said before, and return what was said."""
    try:
        if (
            farm.is_embedded and not farm.workers()
        ):  # a worker may be about to start; `tell_who_waits` has said the rest
            return set()
        found = farm.why_waiting_all([view for view in waiting.values() if not view.relations.waits])
    except FarmError:  # watching the jobs reports the error soon enough
        return set()
    new = {why: job_id for job_id, why in found.items() if why and why not in told}
    for why, job_id in new.items():
        notice(f"job {short_id(job_id)} still waits: {why}")
    return set(new)
