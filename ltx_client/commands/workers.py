"""`ltx workers`: list the live workers."""

from __future__ import annotations

import click

from ltx_client.farm import Farm
from ltx_client.local.members import Use
from ltx_client.options import json_option
from ltx_client.output import ago, notice, pause_text, print_json, print_table, short_id, workers_table
from ltx_client.protocol.workers import PAUSED, UNREADY

__all__ = ["command"]


@click.command("workers", epilog="Example: ltx workers --json")
@json_option
def command(as_json: bool) -> None:
    """Lists the farm's live workers and what each is doing."""
    with Farm.connect(use=Use.READ) as farm:
        workers = farm.workers()
        pauses = farm.pauses()
    paused = {pause.id for pause in pauses}
    if as_json:
        print_json([worker.model_dump(mode="json") for worker in workers])
    elif workers:
        print_table(workers_table(workers))
        for worker in workers:
            if worker.state == PAUSED:
                notice(
                    f"{worker.name} is paused: {worker.why_paused}; `ltx-worker resume` there has it take jobs again"
                )
            elif worker.state == UNREADY:
                notice(f"{worker.name} cannot go on, and ends soon to be started again: {worker.why_paused}")
            elif worker.why_paused and paused.isdisjoint((worker.id, worker.variant)):
                notice(f"{worker.name} takes no new jobs: {worker.why_paused}")
            for thread in worker.threads:
                if thread.failing:
                    notice(
                        f"{worker.name}: its thread {thread.name} fails, {thread.errors} errors so far: {thread.error}"
                    )
            if worker.failed_at is not None:
                notice(
                    f"{worker.name}: its last failure was {ago(worker.failed_at)}, job"
                    f" {short_id(worker.failed_job)}: {worker.failure}"
                )
    else:
        notice("no live workers; ltx-worker start, or ltx up on this machine, starts one")
    if not as_json:
        for pause in pauses:
            notice(pause_text(pause))
