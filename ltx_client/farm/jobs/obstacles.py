"""Explain why a job waits that no worker will take for now, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ltx_client.farm.jobs.views import JobView
from ltx_client.protocol.jobs import NO_RELATIONS, Job, NewerJob, Relations
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Status
from ltx_client.protocol.versions.features import needed_features
from ltx_client.protocol.workers import OFF_DUTY, PAUSED, PAUSED_BY_USER, UNREADY, WorkerInfo, fits_gpu
from ltx_models.families.variants import DEFAULT_VARIANT
from ltx_models.memory import memory_class

__all__ = ["paused_queue", "unknown_workers", "why_not_taken", "why_waiting"]

SHOWN = 5
"""How many workers a sentence names."""
EXCLUDED = "is excluded by --not-on"
_STATES = {
    PAUSED: "is paused ({why}; ltx-worker resume on that machine ends that)",
    PAUSED_BY_USER: "is paused ({why}; ltx resume ends that)",
    OFF_DUTY: "is off duty ({why})",
    UNREADY: "cannot continue ({why})",
}


def why_not_taken(job: Job, relations: Relations, workers: Sequence[WorkerInfo], *, embedded: bool) -> str:
    """Return why no live worker takes a job, as a sentence; empty if one does."""
    able = [worker for worker in workers if worker.variant == job.variant]
    size = memory_class(job.predicted_peak)
    roomy = [worker for worker in able if worker.budget_gb >= size and fits_gpu(job, worker.gpu_gb)]
    if not roomy:
        return _nobody(job, able, size, embedded=embedded)
    reading = [worker for worker in roomy if worker.reads(job)]
    if not reading:
        return _too_old(job, roomy)
    roomy = reading
    reasons = {worker.id: _reason(worker, relations) for worker in roomy}
    if not all(reasons.values()):
        return ""
    each = "; ".join(f"{worker.name} {reasons[worker.id]}" for worker in roomy[:SHOWN])
    more = f"; and {len(roomy) - SHOWN} others like these" if len(roomy) > SHOWN else ""
    sentence = f"no live worker takes {job.queue} now: {each}{more}"
    if EXCLUDED not in reasons.values():
        return sentence
    return f"{sentence}; start another worker, or ltx cancel the job and submit it without --not-on"


def paused_queue(job: Job, pauses: Iterable[Pause]) -> Pause | None:
    """Return the pause of a job's queue, if it is paused."""
    return next((pause for pause in pauses if (pause.of, pause.id) == ("queue", job.variant)), None)


def unknown_workers(relations: Relations, workers: Sequence[WorkerInfo]) -> str:
    """Return which of the excluded workers do not exist, as a sentence; empty if all exist."""
    known = {name for worker in workers for name in (worker.id, worker.name)}
    unknown = [name for name in relations.not_on if name not in known]
    if not unknown or not workers:
        return ""
    there = ", ".join(sorted({worker.name for worker in workers})[: 2 * SHOWN])
    return f"no live worker is called {', '.join(unknown)}, which --not-on names; the live workers are: {there}"


def why_waiting(view: JobView, workers: Sequence[WorkerInfo], pauses: Iterable[Pause], *, embedded: bool) -> str:
    """Return the reason for which a job may wait forever, as a sentence; empty if its turn will come."""
    if view.ended or view.status is not Status.QUEUED:
        return ""
    if view.paused:
        return f"the job is paused; `ltx resume {view.job.id}` ends that"
    if view.relations.waits and not view.snapshot.attempt:
        return f"it begins when {', '.join([*view.relations.after_jobs, *view.relations.after_batches])} has ended"
    if pause := paused_queue(view.job, pauses):
        return f"{pause.of} {pause.name} was paused by {pause.by}; `{pause.resume_command}` ends that"
    return why_not_taken(view.job, view.relations or NO_RELATIONS, workers, embedded=embedded)


def _nobody(job: Job, able: Sequence[WorkerInfo], size: int, *, embedded: bool) -> str:
    if able:
        most = max(able, key=lambda worker: (worker.budget_gb >= size, worker.gpu_gb or 0.0, worker.budget_gb))
        if most.budget_gb >= size and most.gpu_gb is not None:
            return (
                f"no live worker's GPU may use the memory that a video of this size needs: {most.gpu_gb:.3g} GB on"
                f" {most.name}; it waits for another worker, or cancel it and submit a smaller or shorter one"
            )
        return (
            f"no live worker has the memory for {job.queue}: it needs {size} GB, and renders on {most.name} may use"
            f" {most.budget_gb:.3g}; its jobs wait for one (see ltx workers)"
        )
    if embedded:
        up = "ltx up" if job.variant == DEFAULT_VARIANT else f"ltx up --variant {job.variant}"
        return f"nothing renders {job.variant} on this machine now; run {up} in another terminal"
    return f"no live worker serves {job.queue}; its jobs wait for one (see ltx workers)"


def _too_old(job: Job, workers: Sequence[WorkerInfo]) -> str:
    """Return that no worker's version reads the job, and what to do."""
    named = ", ".join(worker.name for worker in workers[:SHOWN]) + (", …" if len(workers) > SHOWN else "")
    why = (
        "it was submitted by a newer ltx-farm"
        if isinstance(job, NewerJob)
        else f"it needs {', '.join(sorted(needed_features(job)))}"
    )
    has = "has" if len(workers) == 1 else "have"
    return (
        f"no live worker can read the job: {why}, and {named} {has} an older one; it waits until a worker is upgraded"
        " (pip install --upgrade ltx-farm; ltx workers --json shows the features of each)"
    )


def _reason(worker: WorkerInfo, relations: Relations) -> str:
    if relations.excludes(worker.id, worker.name):
        return EXCLUDED
    state = _STATES.get(worker.state, "")
    return state.format(why=worker.why_paused) if worker.why_paused else state.split(" (")[0]
