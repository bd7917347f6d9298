"""Run `ltx stats`: count what the farm has rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ltx_client.shared.console.stdio import notice, print_json
from ltx_client.terminal.arguments.options import COUNT, json_option

if TYPE_CHECKING:
    from ltx_client.farm.describe import StatsJson
    from ltx_client.terminal.listing import Listing

__all__ = ["command"]


@click.command("stats", epilog="Example: ltx stats --json")
@click.option("--mine", is_flag=True, help="Only jobs that you submitted from this machine.")
@click.option("--limit", type=COUNT, default=1000, show_default=True, help="How many jobs to count, the newest first.")
@json_option
def command(mine: bool, limit: int, as_json: bool) -> None:
    """Count the jobs of the last days by variant and worker, with their times, as far as they are still known."""
    from ltx_client.farm.describe import describe_stats
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.prepare import submitter
    from ltx_client.local.members import Use
    from ltx_client.terminal.output import print_table

    with Farm.connect(use=Use.READ) as farm:
        views = [view for view in farm.jobs(limit) if not mine or view.job.submitter == submitter()]
        rows = describe_stats(views, farm.workers())
    if as_json:
        print_json(rows)
    elif rows:
        print_table(_table(rows))
    else:
        notice("no jobs yet; queue one with ltx render")


def _table(rows: list[StatsJson]) -> Listing:
    from ltx_client.terminal.listing import Column, Listing
    from ltx_client.terminal.output import duration

    optional = {"FAILED": 1, "OPEN": 2, "RENDER": 3, "STEP": 4, "CANCELLED": 5, "VIDEO": 6, "CHIP": 7}
    headings = ("VARIANT", "WORKER", "DONE", "FAILED", "CANCELLED", "OPEN", "RENDER", "STEP", "VIDEO", "CHIP")
    table = Listing(*(Column(heading, leave_out=optional.get(heading, 0)) for heading in headings))
    for row in rows:
        table.add_row(
            row["variant"],
            row["worker"],
            *(str(count or "") for count in (row["done"], row["failed"], row["cancelled"])),
            str((row["queued"] + row["running"]) or ""),
            *(duration(median) if median else "" for median in (row["median_seconds"], row["median_step_seconds"])),
            duration(row["video_seconds"]) if row["video_seconds"] else "",
            row["chip"],
        )
    return table
