"""Run `ltx workers`: list the live workers."""

from __future__ import annotations

import click

from ltx_client.farm.outputs.names import short_id
from ltx_client.shared.console.stdio import notice, print_json
from ltx_client.terminal.arguments.options import json_option

__all__ = ["command"]


@click.command("workers", epilog="Example: ltx workers --json")
@json_option
def command(as_json: bool) -> None:
    """List the farm's live workers and what each is doing."""
    from ltx_client.farm.describe import describe_worker
    from ltx_client.farm.farm import Farm
    from ltx_client.local.members import Use
    from ltx_client.protocol.versions.features import missing_features
    from ltx_client.protocol.workers import PAUSED, UNREADY, worker_names
    from ltx_client.terminal.output import ago, pause_text, print_table, workers_table

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
                resume = "`ltx-worker resume` on that machine makes it take jobs again"
                notice(f"{names[worker.id]} is paused: {worker.why_paused}; {resume}")
            elif worker.state == UNREADY:
                notice(f"{names[worker.id]} cannot continue, and exits soon to be restarted: {worker.why_paused}")
            elif worker.why_paused and paused.isdisjoint((worker.id, worker.variant)):
                notice(f"{names[worker.id]} takes no new jobs: {worker.why_paused}")
            for thread in worker.threads:
                if thread.failing:
                    errors = f"{thread.errors} errors so far: {thread.error}"
                    notice(f"{names[worker.id]}: its thread {thread.name} fails, {errors}")
            if missing := missing_features(worker.features.split()):
                notice(
                    f"{names[worker.id]} has an older ltx-farm ({worker.version}), without {', '.join(missing)};"
                    " upgrade it (pip install --upgrade ltx-farm)"
                )
            if worker.note:
                notice(f"{names[worker.id]}: {worker.note}")
            if worker.failed_at is not None:
                notice(
                    f"{names[worker.id]}: its last failure was {ago(worker.failed_at, now)}, job"
                    f" {short_id(worker.failed_job)}: {worker.failure}"
                )
    else:
        notice("no live workers; start one with ltx-worker start, or on this machine with ltx up")
    if not as_json:
        for pause in pauses:
            notice(pause_text(pause, now))
