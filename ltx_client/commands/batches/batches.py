"""Run `ltx batches`: list batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ltx_client.farm.outputs.names import short_id
from ltx_client.shared.console.stdio import notice, print_json
from ltx_client.terminal.arguments.options import COUNT, json_option

if TYPE_CHECKING:
    from ltx_client.farm.batches import Batch
    from ltx_client.terminal.listing import Listing

__all__ = ["command"]


@click.command("batches", epilog="Example: ltx batches --mine")
@click.option("--limit", type=COUNT, default=20, show_default=True, help="How many to list, the newest first.")
@click.option("--mine", is_flag=True, help="Only those that you submitted from this machine.")
@json_option
def command(limit: int, mine: bool, as_json: bool) -> None:
    """List the farm's batches, the newest first."""
    from ltx_client.farm.describe import describe_batch
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.prepare import submitter
    from ltx_client.local.members import Use
    from ltx_client.terminal.output import print_table

    with Farm.connect(use=Use.READ) as farm:
        batches = [batch for batch in farm.batches(limit) if not mine or batch.submitter == submitter()]
        now = farm.now()
    if as_json:
        print_json([describe_batch(batch) for batch in batches])
    elif batches:
        print_table(_table(batches, now))
    else:
        notice("no batches yet; queue one with ltx batch")


def _table(batches: list[Batch], now: float) -> Listing:
    from ltx_client.farm.describe import count_by_status
    from ltx_client.terminal.listing import Column, Listing
    from ltx_client.terminal.output import duration

    table = Listing(
        Column("BATCH"),
        Column("FILE", leave_out=1, is_free=True),
        Column("VIDEOS", leave_out=2),
        Column("STATUS"),
        Column("AGE", leave_out=3),
        Column("BY", leave_out=4),
    )
    for batch in batches:
        table.add_row(
            short_id(batch.id),
            batch.name,
            str(len(batch.views)),
            ", ".join(f"{count} {status}" for status, count in count_by_status(batch.views).items()),
            duration(max(0.0, now - batch.submitted_at)),
            batch.submitter,
        )
    return table
