"""`ltx workers`: list the live workers."""

from __future__ import annotations

import click

from ltx_client.farm.describe import describe_worker
from ltx_client.farm.farm import Farm
from ltx_client.local.members import Use
from ltx_client.protocol.workers import PAUSED, UNREADY, worker_names
from ltx_client.terminal.arguments.options import json_option
from ltx_client.terminal.output import ago, notice, pause_text, print_json, print_table, short_id, workers_table

__all__ = ["command"]


@click.command("workers", epilog="Example: ltx workers --json")
@json_option
def command(as_json: bool) -> None:
    """Lists the farm's live workers and what each is doing."""
    with Farm.connect(use=Use.READ) as farm:
        workers = farm.workers()
        pauses = farm.pauses()
        now = farm.now()
    names = worker_names(workers)
    paused = {pause.id for pause in pauses}
    if as_json:
        print_json([describe_worker(worker) for worker in workers])
    elif workers:
        print_table(workers_table(workers, now))
        for worker in workers:
            if worker.state == PAUSED:
                resume = "`ltx-worker resume` there has it take jobs again"
                notice(f"{names[worker.id]} is paused: {worker.why_paused}; {resume}")
            elif worker.state == UNREADY:
                notice(f"{names[worker.id]} cannot go on, and ends soon to be started again: {worker.why_paused}")
            elif worker.why_paused and paused.isdisjoint((worker.id, worker.variant)):
                notice(f"{names[worker.id]} takes no new jobs: {worker.why_paused}")
            for thread in worker.threads:
                if thread.failing:
                    errors = f"{thread.errors} errors so far: {thread.error}"
                    notice(f"{names[worker.id]}: its thread {thread.name} fails, {errors}")
            if worker.note:
                notice(f"{names[worker.id]}: {worker.note}")
            if worker.failed_at is not None:
                notice(
                    f"{names[worker.id]}: its last failure was {ago(worker.failed_at, now)}, job"
                    f" {short_id(worker.failed_job)}: {worker.failure}"
                )
    else:
        notice("no live workers; ltx-worker start, or ltx up on this machine, starts one")
    if not as_json:
        for pause in pauses:
            notice(pause_text(pause, now))
