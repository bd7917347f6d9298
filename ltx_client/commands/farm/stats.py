"""Run `ltx stats`: count what the farm has rendered."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from ltx_client.shared.console.stdio import notice, print_json
from ltx_client.terminal.arguments.options import COUNT, json_option

if TYPE_CHECKING:
    from ltx_client.farm.jobs.views import JobView
    from ltx_client.protocol.workers import WorkerInfo
    from ltx_client.terminal.listing import Listing

__all__ = ["command"]


@click.command("stats", epilog="Example: ltx stats --json")
@click.option("--mine", is_flag=True, help="Only jobs that you submitted from this machine.")
@click.option("--limit", type=COUNT, default=1000, show_default=True, help="How many jobs to count, the newest first.")
@json_option
def command(mine: bool, limit: int, as_json: bool) -> None:
    """Count the jobs of the last days by variant and worker, with their times, as far as they are still known."""
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.prepare import submitter
    from ltx_client.local.members import Use
    from ltx_client.terminal.output import print_table

    with Farm.connect(use=Use.READ) as farm:
        views = [view for view in farm.jobs(limit) if not mine or view.job.submitter == submitter()]
        rows = _rows(views, farm.workers())
    if as_json:
        print_json(rows)
    elif rows:
        print_table(_table(rows))
    else:
        notice("no jobs yet; queue one with ltx render")


def _rows(views: list[JobView], workers: list[WorkerInfo]) -> list[dict[str, Any]]:
    chips = {worker.id: worker.chip for worker in workers}
    groups: dict[tuple[str, str, str], list[JobView]] = defaultdict(list)
    for view in views:
        worker = view.snapshot.worker or ""
        groups[view.job.variant, view.snapshot.worker_name or "", chips.get(worker, "")].append(view)
    return [_row(*key, group) for key, group in sorted(groups.items())]


def _row(variant: str, worker: str, chip: str, views: list[JobView]) -> dict[str, Any]:
    from ltx_client.protocol.state import Status

    done = [view.snapshot for view in views if view.status is Status.DONE]
    took = [state.took for state in done if state.took is not None]
    steps = [state.step_seconds for state in done if state.step_seconds]
    counts = Counter(view.status for view in views)
    video = sum(
        (view.job.request.num_frames or 0) / (view.job.request.frame_rate or 1)
        for view in views
        if view.status is Status.DONE
    )
    return {
        "variant": variant,
        "worker": worker,
        "chip": chip,
        **{status.value: counts[status] for status in Status},
        "attempts": sum(view.snapshot.attempt for view in views),
        "median_seconds": median(took) if took else None,
        "median_step_seconds": median(steps) if steps else None,
        "video_seconds": video,
    }


def _table(rows: list[dict[str, Any]]) -> Listing:
    from ltx_client.terminal.listing import Column, Listing
    from ltx_client.terminal.output import duration

    optional = {"FAILED": 1, "OPEN": 2, "RENDER": 3, "STEP": 4, "CANCELLED": 5, "VIDEO": 6, "CHIP": 7}
    headings = ("VARIANT", "WORKER", "DONE", "FAILED", "CANCELLED", "OPEN", "RENDER", "STEP", "VIDEO", "CHIP")
    table = Listing(*(Column(heading, leave_out=optional.get(heading, 0)) for heading in headings))
    for row in rows:
        table.add_row(
            row["variant"],
            row["worker"],
            *(str(row[name] or "") for name in ("done", "failed", "cancelled")),
            str((row["queued"] + row["running"]) or ""),
            *(duration(row[name]) if row[name] else "" for name in ("median_seconds", "median_step_seconds")),
            duration(row["video_seconds"]) if row["video_seconds"] else "",
            row["chip"],
        )
    return table
