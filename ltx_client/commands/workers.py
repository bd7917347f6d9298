"""`ltx workers`: list the live workers."""

from __future__ import annotations

import click

from ltx_client.farm import Farm
from ltx_client.local.members import Use
from ltx_client.options import json_option
from ltx_client.output import notice, print_json, print_table, workers_table

__all__ = ["command"]


@click.command("workers", epilog="Example: ltx workers --json")
@json_option
def command(as_json: bool) -> None:
    """Lists the farm's live workers and what each is doing."""
    with Farm.connect(use=Use.READ) as farm:
        workers = farm.workers()
    if as_json:
        print_json([worker.model_dump() for worker in workers])
    elif workers:
        print_table(workers_table(workers))
    else:
        notice("no live workers; ltx-worker start, or ltx up on this machine, starts one")
