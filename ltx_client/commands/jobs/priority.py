"""Run `ltx priority`: change the priority of waiting jobs."""

from __future__ import annotations

import click

from ltx_client.shared.console.stdio import notice
from ltx_client.terminal.arguments.options import batch_option, jobs_argument

__all__ = ["command"]


@click.command("priority", epilog="Example: ltx priority 3fa85f64a1b2 1")
@jobs_argument
@click.argument("priority", type=click.IntRange(0, 9))
@batch_option
def command(jobs: tuple[str, ...], priority: int, batch: str | None) -> None:
    """Change the PRIORITY of waiting jobs: 0 is first, 9 is last."""
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use
    from ltx_client.protocol.state import Status
    from ltx_client.terminal.arguments.selection import select

    with Farm.connect(use=Use.READ) as farm:
        for job_id in [view.job.id for view in select(farm, jobs, batch)]:
            status = farm.prioritize(job_id, priority)
            if status is Status.QUEUED:
                notice(f"job {job_id} gets priority {priority} within seconds")
            else:
                notice(f"job {job_id} is {status}; its priority no longer matters")
