"""`ltx jobs`: list jobs."""

from __future__ import annotations

import click

from ltx_client.farm import Farm
from ltx_client.local.members import Use
from ltx_client.options import json_option
from ltx_client.output import describe_job, jobs_table, notice, print_json, print_table

__all__ = ["command"]


@click.command("jobs", epilog="Example: ltx jobs --limit 200 --json")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many, newest first.")
@json_option
def command(limit: int, as_json: bool) -> None:
    """Lists the farm's jobs, the newest first."""
    with Farm.connect(use=Use.READ) as farm:
        views = farm.jobs(limit)
    if as_json:
        print_json([describe_job(view) for view in views])
    elif views:
        print_table(jobs_table(views))
    else:
        notice("no jobs yet; ltx render queues one")
