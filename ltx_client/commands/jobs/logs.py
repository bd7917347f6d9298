"""Run `ltx logs`: print a job's events."""

from __future__ import annotations

import time

import click

from ltx_client.shared.console.stdio import print_json, print_line
from ltx_client.terminal.arguments.options import job_argument

__all__ = ["command"]


@click.command("logs", epilog="Example: ltx logs 3fa85f64a1b2")
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Continue until the job has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print every event as a line of JSON.")
def command(job: str, follow: bool, as_json: bool) -> None:
    """Print a job's events, one a line, with the time by the broker's clock."""
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use

    with Farm.connect(use=Use.READ) as farm:
        job_id = farm.find(job)
        for update in farm.watch(job_id) if follow else farm.log(job_id):
            if update.event is None:
                continue
            if as_json:
                print_json({"seq": update.snapshot.seq, **update.event.model_dump()}, indent=None)
            else:
                moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(update.event.at))
                print_line(f"{moment}  {' '.join(filter(None, update.event.words))}")
