"""Format what commands print for people, and print it as JSON for programs; other messages go to stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltx_client.farm.jobs.forecast import Place
from ltx_client.farm.jobs.views import JobView
from ltx_client.farm.outputs.names import short_id
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import PAUSED, PAUSED_BY_USER, WorkerInfo, worker_names
from ltx_client.shared.console.stdio import notice, print_json, print_line
from ltx_client.terminal.listing import Column, Listing, print_facts, print_table

if TYPE_CHECKING:
    from rich.text import Text

__all__ = [
    "STATUS_STYLE",
    "ago",
    "duration",
    "jobs_table",
    "notice",
    "pause_text",
    "place_text",
    "print_facts",
    "print_json",
    "print_line",
    "print_table",
    "short_id",
    "status_text",
    "status_word",
    "workers_table",
]

STATUS_STYLE = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.DONE: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "dim",
}


def duration(seconds: float) -> str:
    """Return seconds as 8 s, 2 min 05 s or 1 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def place_text(place: Place) -> str:
    """Return a job's place in the queue, and when it begins."""
    begins = "" if place.starts_in is None else f", begins in about {duration(place.starts_in)}"
    return (f"{place.ahead} before it" if place.ahead else "next") + begins


def ago(moment: float, now: float) -> str:
    """Return how long ago a moment was; both times are seconds since 1970, by the broker's clock (`Farm.now`)."""
    return f"{duration(max(0.0, now - moment))} ago"


def pause_text(pause: Pause, now: float) -> str:
    """Return which worker or queue is paused, by whom, since when, and what ends the pause."""
    return f"{pause.of} {pause.name} was paused by {pause.by} {ago(pause.at, now)}; `{pause.resume_command}` ends that"


def status_word(view: JobView) -> str:
    """Return a job's state in a word; "newer" for one that waits for a worker of a newer version than this client."""
    if view.newer and view.status is Status.QUEUED and not view.paused:
        return "newer"
    if view.ended:
        return view.status.value
    if view.orphaned:
        return "lost"
    if view.cancel_asked:
        return "cancelling"
    return "paused" if view.paused else view.status.value


def status_text(view: JobView, words: str) -> Text:
    """Return words on a job's state, in the colour for that state."""
    from ltx_client.shared.console.rich_console import styled

    return styled(words, STATUS_STYLE[view.status])


def jobs_table(views: list[JobView], now: float) -> Listing:
    """Return jobs as a table for people; `now` is by the broker's clock."""
    table = Listing(
        Column("JOB"),
        Column("STATUS"),
        Column("STEPS", leave_out=2),
        Column("VARIANT", leave_out=5),
        Column("AGE", leave_out=4),
        Column("WORKER", leave_out=3),
        Column("PROMPT", leave_out=1, is_free=True),
    )
    for view in views:
        snapshot = view.snapshot
        table.add_row(
            short_id(view.job.id),
            status_text(view, status_word(view)),
            f"{snapshot.step}/{snapshot.steps}" if snapshot.steps else "",
            view.job.variant,
            duration(max(0.0, now - view.submitted_at)),
            snapshot.worker_name or "",
            view.job.request.prompt,
        )
    return table


def _heat(worker: WorkerInfo) -> str:
    """Return degrees, or a Mac's word for its thermal pressure; empty if the worker does not report it."""
    return worker.thermal_pressure or "" if worker.temperature is None else f"{worker.temperature:.0f} °C"


def workers_table(workers: list[WorkerInfo], now: float) -> Listing:
    """Return workers as a table for people, those of one name with their ids; `now` is by the broker's clock."""
    names = worker_names(workers)
    table = Listing(
        Column("WORKER"),
        Column("STATE"),
        Column("JOB", leave_out=1),
        Column("VARIANT", leave_out=2),
        Column("MEMORY", leave_out=6),
        Column("SERVES UP TO", leave_out=3),
        Column("UP SINCE", leave_out=5),
        Column("HEAT", leave_out=4),
        Column("CHIP", leave_out=7),
        Column("FEATURES", leave_out=8),
    )
    for worker in workers:
        table.add_row(
            names[worker.id],
            PAUSED if worker.state == PAUSED_BY_USER else worker.state,
            short_id(worker.job),
            worker.variant,
            f"{worker.memory / 1e9:.0f} GB",
            f"{worker.budget_gb:.0f} GB",
            ago(worker.started_at, now),
            _heat(worker),
            worker.chip,
            worker.features,
        )
    return table
