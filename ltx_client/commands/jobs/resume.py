"""Run `ltx resume`: unpause jobs, workers and queues."""

from __future__ import annotations

import click

from ltx_client.shared.console.stdio import notice
from ltx_client.terminal.arguments.options import batch_option, jobs_argument, operator_options

__all__ = ["command"]


@click.command("resume", epilog="Example: ltx resume 3fa85f64a1b2")
@jobs_argument
@batch_option
@operator_options
def command(jobs: tuple[str, ...], batch: str | None, workers: tuple[str, ...], queues: tuple[str, ...]) -> None:
    """Resume paused jobs, workers and queues; a job continues from where it was."""
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use
    from ltx_client.protocol.state import ENDED
    from ltx_client.protocol.workers import PAUSED
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.terminal.arguments.selection import select
    from ltx_client.terminal.background_renders import render_in_background

    settings = FarmSettings()
    with Farm.connect(settings, use=Use.READ) as farm:
        for variant in queues:
            notice(f"queue {variant} is resumed" if farm.resume_queue(variant) else f"queue {variant} was not paused")
        for name in workers:
            notice(f"worker {name} is resumed" if farm.resume_worker(name) else f"worker {name} was not paused")
            for worker in farm.workers():
                if name in (worker.name, worker.id) and worker.state == PAUSED:
                    notice(
                        f"{name} has paused itself: {worker.why_paused}; only `ltx-worker resume` on that"
                        " machine ends that"
                    )
        if not (jobs or batch) and (workers or queues):
            return
        resumed = []
        for view in select(farm, jobs, batch):
            status = farm.resume(view.job.id)
            if status in ENDED:
                notice(f"job {view.job.id} had ended already: {status}")
            elif view.paused:
                resumed.append(view.job)
                notice(f"job {view.job.id} is resumed")
            else:
                notice(f"job {view.job.id} was not paused")
        if settings.broker_url is None:
            render_in_background(settings, resumed)
