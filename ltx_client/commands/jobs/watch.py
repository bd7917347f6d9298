"""Run `ltx watch`: follow jobs to their end."""

from __future__ import annotations

import click

from ltx_client.farm.outputs.names import short_id
from ltx_client.shared.console.stdio import notice, print_json
from ltx_client.terminal.arguments.options import batch_option, jobs_argument, notify_options

__all__ = ["command"]


@click.command("watch", epilog="Example: ltx watch 3fa85f64a1b2")
@jobs_argument
@batch_option
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
@notify_options
def command(jobs: tuple[str, ...], batch: str | None, as_json: bool, notify: str | None, desktop: bool | None) -> None:
    """Show jobs until they end: those named, or all that have not ended. Ctrl-C stops watching, not the jobs."""
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use
    from ltx_client.protocol.state import Status
    from ltx_client.terminal.arguments.selection import select
    from ltx_client.terminal.end_notifications import EndNotifications
    from ltx_client.terminal.notices.wait_reasons import tell_who_waits
    from ltx_client.terminal.watching.following import follow

    ending = EndNotifications(notify, desktop)
    with Farm.connect(use=Use.READ) as farm:
        views = select(farm, jobs, batch) if jobs or batch else [view for view in farm.jobs() if not view.ended]
        ids = [view.job.id for view in views]
        if not ids:
            notice("nothing is queued or running")
            return
        if as_json:
            for update in farm.watch(*ids):
                if update.event is not None:
                    line = {"job": update.view.job.id, "seq": update.snapshot.seq, **update.event.model_dump()}
                    print_json(line, indent=None)
        else:
            queued = [view for view in views if view.status is Status.QUEUED]
            tell_who_waits(farm, [(view.job, view.relations) for view in queued if not view.paused])
            for view in queued:
                if view.paused:
                    notice(f"job {short_id(view.job.id)} is paused; ltx resume {short_id(view.job.id)} ends that")
            follow(farm, ids)
        ending.tell([farm.view(job_id) for job_id in ids])
