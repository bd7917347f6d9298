"""What commands say when jobs will wait: for a worker that serves them, or for the end of their queue's pause."""

from __future__ import annotations

from collections.abc import Iterable

from ltx_client.farm import Farm
from ltx_client.output import notice, pause_text
from ltx_client.prepare import DEFAULT_VARIANT
from ltx_client.protocol.jobs import Job

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
    by_queue = {job.queue: job for job in jobs}
    paused = tell_of_pauses(farm, (job.variant for job in by_queue.values()))
    workers = farm.workers()
    for queue, job in by_queue.items():
        if job.variant in paused or any(worker.serves(job) for worker in workers):
            continue
        if farm.is_embedded:
            up = "ltx up" if job.variant == DEFAULT_VARIANT else f"ltx up --variant {job.variant}"
            notice(f"warning: nothing renders {job.variant} on this machine now; {up}, in another terminal, does")
        else:
            notice(f"warning: no live worker serves {queue}; its jobs wait for one (see ltx workers)")
