"""Run `ltx pause`: pause jobs, workers and queues."""

from __future__ import annotations

import click

from ltx_client.shared.console.stdio import notice
from ltx_client.terminal.arguments.options import batch_option, jobs_argument, operator_options

__all__ = ["command"]


@click.command("pause", epilog="Example: ltx pause 3fa85f64a1b2")
@jobs_argument
@batch_option
@operator_options
def command(jobs: tuple[str, ...], batch: str | None, workers: tuple[str, ...], queues: tuple[str, ...]) -> None:
    """Pause jobs: a queued one does not begin, a running one stops at its next step. `ltx resume` continues from there.

    --worker and --queue are for an operator: on a farm with users, the admin. That worker, or all workers for that
    variant, begin no job until `ltx resume`, whatever is restarted meanwhile. Running jobs are rendered to their end:
    requeueing them would cost the steps since their last resume point, and another machine the time to load the model;
    `ltx-worker stop` on the machine does that at once.
    """
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use
    from ltx_client.protocol.state import ENDED, Status
    from ltx_client.terminal.arguments.selection import select

    with Farm.connect(use=Use.READ) as farm:
        for variant in queues:
            notice(f"queue {farm.pause_queue(variant).name} is paused: no worker begins its jobs")
        for name in workers:
            pause = farm.pause_worker(name)
            notice(f"worker {pause.name} is paused: it finishes its running job, if any, and takes no more")
        if jobs or batch or not (workers or queues):
            for job_id in [view.job.id for view in select(farm, jobs, batch)]:
                status = farm.pause(job_id)
                if status in ENDED:
                    notice(f"job {job_id} had ended already: {status}")
                elif status is Status.RUNNING:
                    notice(f"job {job_id} stops at its next step, and is paused then")
                else:
                    notice(f"job {job_id} is paused")
