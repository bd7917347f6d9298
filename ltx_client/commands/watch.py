"""`ltx watch`: follow jobs to their end."""

from __future__ import annotations

import json

import click

from ltx_client.display import display
from ltx_client.farm import Farm
from ltx_client.local.members import Use
from ltx_client.output import notice

__all__ = ["command"]


@click.command("watch", epilog="Example: ltx watch 3fa85f64a1b2")
@click.argument("jobs", metavar="[JOB]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
def command(jobs: tuple[str, ...], as_json: bool) -> None:
    """Shows jobs until they end: those named, or all that have not ended. Ctrl-C stops watching, not the jobs."""
    with Farm.connect(use=Use.READ) as farm:
        ids = [farm.find(job) for job in jobs] or [view.job.id for view in farm.jobs() if not view.ended]
        if not ids:
            notice("nothing is queued or running")
            return
        if as_json:
            for update in farm.watch(*ids):
                if update.event is not None:
                    line = {"job": update.view.job.id, "seq": update.snapshot.seq, **update.event.model_dump()}
                    click.echo(json.dumps(line, ensure_ascii=False))
            return
        with display(with_ids=len(ids) > 1) as screen:
            for update in farm.watch(*ids):
                screen.show(update)
