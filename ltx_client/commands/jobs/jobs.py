"""Run `ltx jobs`: list jobs."""

from __future__ import annotations

import click

from ltx_client.shared.console.stdio import notice, print_json
from ltx_client.terminal.arguments.options import COUNT, batch_option, json_option

__all__ = ["command"]


@click.command("jobs", epilog="Example: ltx jobs --limit 200 --json")
@click.option("--limit", type=COUNT, default=50, show_default=True, help="How many to list, the newest first.")
@click.option("--mine", is_flag=True, help="Only those that you submitted from this machine.")
@batch_option
@json_option
def command(limit: int, mine: bool, batch: str | None, as_json: bool) -> None:
    """List the farm's jobs, the newest first; or a batch's, in its own order."""
    from ltx_client.farm.describe import describe_job
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.prepare import submitter
    from ltx_client.local.members import Use
    from ltx_client.protocol.state import Status
    from ltx_client.terminal.notices.wait_reasons import tell_who_waits
    from ltx_client.terminal.output import jobs_table, print_table

    with Farm.connect(use=Use.READ) as farm:
        views = farm.batch(batch).views if batch is not None else farm.jobs(limit)
        if not as_json:
            queued = [view for view in views if view.status is Status.QUEUED and not view.paused]
            tell_who_waits(farm, [(view.job, view.relations) for view in queued if not view.relations.waits])
        now = farm.now()
    views = [view for view in views if not mine or view.job.submitter == submitter()]
    if as_json:
        print_json([describe_job(view) for view in views])
    elif views:
        print_table(jobs_table(views, now))
    else:
        notice("no jobs yet; queue one with ltx render")
