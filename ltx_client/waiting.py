"""What commands say when jobs will wait: for a worker that serves them, or for the end of their queue's pause."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ltx_client.farm import Farm
from ltx_client.output import notice, pause_text
from ltx_client.prepare import DEFAULT_VARIANT
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.workers import CLIP_PARTS, WorkerInfo

__all__ = ["tell_of_pauses", "tell_who_waits"]


def tell_of_pauses(farm: Farm, variants: Iterable[str]) -> list[str]:
    """Says which of these queues are paused, and returns them."""
    wanted = set(variants)
    paused = [pause for pause in farm.pauses() if pause.of == "queue" and pause.id in wanted] if wanted else []
    for pause in paused:
        notice(f"warning: {pause_text(pause, farm.now())}, and its jobs wait until then")
    return [pause.id for pause in paused]


def tell_who_waits(farm: Farm, jobs: Iterable[Job]) -> None:
    """Says which of these jobs, which were submitted, no worker will take for now."""
    jobs = list(jobs)
    by_queue = {job.queue: job for job in jobs}
    paused = tell_of_pauses(farm, (job.variant for job in by_queue.values()))
    workers = farm.workers()
    _tell_of_older(workers, jobs)
    for queue, job in by_queue.items():
        if job.variant in paused or any(worker.serves(job) for worker in workers):
            continue
        if farm.is_embedded:
            up = "ltx up" if job.variant == DEFAULT_VARIANT else f"ltx up --variant {job.variant}"
            notice(f"warning: nothing renders {job.variant} on this machine now; {up}, in another terminal, does")
        else:
            notice(f"warning: no live worker serves {queue}; its jobs wait for one (see ltx workers)")


def _tell_of_older(workers: Sequence[WorkerInfo], jobs: Collection[Job]) -> None:
    """Says which workers would read other parts of these jobs' clips than this client means."""
    with_clips = [job for job in jobs if any(item.kind == "video" for item in job.request.conditioning)]
    for worker in workers:
        if any(worker.serves(job) for job in with_clips) and CLIP_PARTS not in worker.features.split():
            notice(
                f"warning: {worker.name} has an older ltx-farm, which reads clips from their beginning: upgrade it,"
                f" or keep the job from it (--not-on {worker.name})"
            )
