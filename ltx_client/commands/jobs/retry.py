"""Run `ltx retry`: retry jobs."""

from __future__ import annotations

import click

from ltx_client.shared.console.stdio import notice, print_line
from ltx_client.terminal.arguments.options import batch_option, jobs_argument

__all__ = ["command"]


@click.command("retry", epilog="Example: ltx retry 5c1e7a90b2d4")
@jobs_argument
@batch_option
def command(jobs: tuple[str, ...], batch: str | None) -> None:
    """Queue a new job in place of each one that failed or was cancelled, and print the new ids.

    Of a batch, retry those that failed; the new jobs take their places in it.
    """
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use
    from ltx_client.protocol.state import Status
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.terminal.arguments.selection import select
    from ltx_client.terminal.background_renders import render_in_background

    settings = FarmSettings()
    with Farm.connect(settings, use=Use.READ) as farm:
        views = select(farm, jobs, None) if jobs or batch is None else []
        if batch is not None:
            views += [view for view in farm.batch(batch).views if view.status is Status.FAILED]
        if not views:
            notice("nothing of this batch has failed")
        retries = [farm.retry(view.job.id) for view in views]
        if settings.broker_url is None:
            render_in_background(settings, retries)
    for job in retries:
        print_line(job.id, done=f"job {job.id} is queued")
