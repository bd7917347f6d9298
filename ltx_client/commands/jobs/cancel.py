"""Run `ltx cancel`: cancel jobs."""

from __future__ import annotations

import click

from ltx_client.shared.console.stdio import notice
from ltx_client.terminal.arguments.options import batch_option, jobs_argument

__all__ = ["command"]


@click.command("cancel", epilog="Example: ltx cancel 3fa85f64a1b2")
@jobs_argument
@batch_option
def command(jobs: tuple[str, ...], batch: str | None) -> None:
    """Cancel jobs: a queued one never runs, a running one stops at its next step."""
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use
    from ltx_client.protocol.state import ENDED, Status
    from ltx_client.terminal.arguments.selection import select_ids

    with Farm.connect(use=Use.READ) as farm:
        for job_id in select_ids(farm, jobs, batch):
            status = farm.cancel(job_id)
            if status in ENDED:
                notice(f"job {job_id} had ended already: {status}")
            elif status is Status.RUNNING:
                notice(f"job {job_id} stops at its next step")
            else:
                notice(f"job {job_id} is cancelled")
