"""Show many jobs and the farm's workers as one table, redrawn in place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from ltx_client.errors import FarmError
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.forecast import Place
from ltx_client.farm.jobs.views import Update
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.console.rich_console import Console, styled
from ltx_client.terminal.listing import Column, Listing
from ltx_client.terminal.output import duration, place_text, short_id, status_text, status_word, workers_table
from ltx_client.terminal.watching.progress import headline, new_cut_texts, progress_text

__all__ = ["LiveDisplay"]

LOOK_EVERY = 3.0
"""Seconds between two readings of workers and places."""
BAR = 12
ORDER = [Status.RUNNING, Status.QUEUED, Status.FAILED, Status.CANCELLED, Status.DONE]


class LiveDisplay:
    """A table of any number of jobs, as many as the terminal has room for, those that change first. A context manager.

    The screen is redrawn a few times a second, however many updates there are.
    """

    def __init__(self, farm: Farm, console: Console, told: Collection[str] = ()) -> None:
        self._farm = farm
        self._told = set(told)
        self._console = console
        self._updates: dict[str, Update] = {}
        self._workers: list[WorkerInfo] = []
        self._places: dict[str, Place] = {}
        self._now = time.time()
        self._look_at = 0.0
        self._live = Live(console=console, get_renderable=self.table)

    def show(self, update: Update) -> None:
        """Take the next update."""
        self._updates[update.view.job.id] = update
        for text in new_cut_texts(update, self._told):
            self._console.print(f"{short_id(update.view.job.id)}  {text}", markup=False, highlight=False)
        if time.monotonic() >= self._look_at:
            self._look()
            self._look_at = time.monotonic() + LOOK_EVERY

    def show_picture(self, picture: RenderableType) -> None:
        """Print a picture above the table."""
        self._console.print(picture)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _look(self) -> None:
        try:
            self._workers = self._farm.workers()
            self._places = self._farm.places()
            self._now = self._farm.now()
        except FarmError:  # watching the jobs reports the error soon enough
            return

    def table(self) -> RenderableType:
        """Return the present screen."""
        height = max(4, self._console.size.height - len(self._workers) - 6)
        updates = sorted(self._updates.values(), key=self._rank)
        jobs = Listing(
            Column("JOB"),
            Column("STATUS"),
            Column("PROGRESS", leave_out=1),
            Column("LEFT", leave_out=3),
            Column("WORKER", leave_out=5),
            Column("NOW", leave_out=4, is_free=True),
            Column("PROMPT", leave_out=2, is_free=True),
        )
        for update in updates[:height]:
            jobs.add_row(*self._row(update))
        counts = Counter(update.view.status for update in updates)
        summary = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
        more = f" ({len(updates) - height} not shown)" if len(updates) > height else ""
        width = self._console.size.width
        workers = workers_table(self._workers, self._now).table(width)
        return Group(jobs.table(width), styled(f"{summary}{more}", "dim"), "", workers)

    def _rank(self, update: Update) -> tuple[int, float]:
        ended = update.snapshot.ended_at or 0.0
        return ORDER.index(update.view.status), -ended or update.view.submitted_at

    def _row(self, update: Update) -> tuple[str | Text, ...]:
        view, snapshot = update.view, update.snapshot
        stage, bar = snapshot.counted, Text()
        if stage is not None and stage.of:
            filled = round(BAR * min(1.0, stage.done / stage.of))
            bar = Text.assemble("━" * filled, ("━" * (BAR - filled), "dim"), f" {stage.done}/{stage.of}")
        place = self._places.get(view.job.id)
        return (
            short_id(view.job.id),
            status_text(view, status_word(view)),
            bar,
            duration(snapshot.left)
            if snapshot.left and progress_text(snapshot)
            else place_text(place)
            if place
            else "",
            snapshot.worker_name or "",
            now if (now := headline(update)) != status_word(view) else "",
            view.job.request.prompt,
        )
