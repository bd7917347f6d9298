"""Show a running job: as a bar in a terminal, as plain lines elsewhere. Both go to stderr."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.cells import cell_len
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from ltx_client.farm.jobs.views import Update
from ltx_client.protocol.state import Snapshot, Status
from ltx_client.protocol.text import shown
from ltx_client.shared.console.rich_console import Console
from ltx_client.terminal.output import duration, notice, short_id

__all__ = ["Display", "display", "headline", "new_cut_texts", "progress_text"]


LEAST_TEXT, LEAST_BAR, MOST_BAR = 60, 8, 30
"""Columns of a terminal for the words of a line, and for its bar, which is left out below its least width."""


class Display(Protocol):
    """Shows updates of any number of jobs."""

    def show(self, update: Update) -> None:
        """Take the next update."""

    def show_picture(self, picture: RenderableType) -> None:
        """Show a frame above what is drawn, if that is possible."""


@contextmanager
def display(*, with_ids: bool = False, told: Collection[str] = ()) -> Iterator[Display]:
    """Yield the display that suits stderr.

    Args:
        with_ids: Whether to show ids, to distinguish several jobs.
        told: Jobs of whose cut texts the person has been told.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainDisplay(with_ids, told)
        return
    bar = min(MOST_BAR, console.width - LEAST_TEXT)
    columns = (
        SpinnerColumn("dots" if console.encoding.startswith("utf") else "line", finished_text=" "),
        TextColumn("{task.description}", markup=False),
        *([BarColumn(bar_width=bar)] if bar >= LEAST_BAR else []),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        yield BarDisplay(progress, with_ids, told)


def progress_text(snapshot: Snapshot) -> str:
    """Return how far the stage that a job is at has come, and the time left, as far as they are known."""
    stage = snapshot.current
    if stage is None or not stage.of or not stage.done:
        return ""
    return f"{stage.counts} {stage.done}/{stage.of}" + (f", {duration(snapshot.left)} left" if snapshot.left else "")


class BarDisplay:
    """A line for each job, redrawn in place."""

    def __init__(self, progress: Progress, with_ids: bool, told: Collection[str] = ()) -> None:
        self._progress = progress
        self._with_ids = with_ids
        self._told = set(told)
        self._tasks: dict[str, object] = {}

    def show(self, update: Update) -> None:
        """Redraw the job's line."""
        job_id, snapshot = update.view.job.id, update.snapshot
        stage = snapshot.counted
        for text in new_cut_texts(update, self._told):
            self._progress.console.print(_prefix(job_id, self._with_ids) + text, markup=False, highlight=False)
        if job_id not in self._tasks:
            self._tasks[job_id] = self._progress.add_task("", total=None, detail="")
        words, detail = self._fitted(_prefix(job_id, self._with_ids), headline(update), progress_text(snapshot))
        self._progress.update(
            self._tasks[job_id],  # type: ignore[arg-type]
            description=words,
            total=stage.of if stage else 1 if update.view.ended else None,
            completed=stage.done if stage else 1 if update.view.ended else 0,
            detail=detail,
        )

    def _fitted(self, prefix: str, words: str, detail: str) -> tuple[str, str]:
        """Return words and details that fit into a line: words are shortened before the time left, the rest never."""
        bars = [column for column in self._progress.columns if isinstance(column, BarColumn)]
        room = self._progress.console.width - len(prefix) - 4 - sum((bar.bar_width or 0) + 1 for bar in bars)
        if cell_len(detail) + LEAST_BAR > room:
            detail = detail.partition(",")[0]
        text = Text(shown(words))
        text.truncate(max(1, room - cell_len(detail)), overflow="ellipsis")
        return prefix + text.plain, detail

    def show_picture(self, picture: RenderableType) -> None:
        """Print a picture above the lines."""
        self._progress.console.print(picture)


class PlainDisplay:
    """Lines about the changes that matter, for logs and pipes."""

    def __init__(self, with_ids: bool, told: Collection[str] = ()) -> None:
        self._with_ids = with_ids
        self._told = set(told)
        self._last: dict[str, str] = {}

    def show(self, update: Update) -> None:
        """Print a line, unless it equals the last one."""
        job_id = update.view.job.id
        for text in new_cut_texts(update, self._told):
            notice(_prefix(job_id, self._with_ids) + text)
        parts = [headline(update), progress_text(update.snapshot)]
        line = _prefix(job_id, self._with_ids) + ": ".join(part for part in parts if part)
        if self._last.get(job_id) != line:
            self._last[job_id] = line
            notice(line)

    def show_picture(self, picture: RenderableType) -> None:
        """Ignore the picture."""


def new_cut_texts(update: Update, told: set[str]) -> list[str]:
    """Return sentences on a job's texts that are longer than what is read of them; `told` prevents repetition."""
    job_id = update.view.job.id
    if not update.snapshot.cut or job_id in told:
        return []
    told.add(job_id)
    return [text.sentence for text in update.snapshot.cut]


def _prefix(job_id: str, with_ids: bool) -> str:
    return f"{short_id(job_id)}  " if with_ids else ""


def headline(update: Update) -> str:
    """Return what is happening to a job, in a few words."""
    view, snapshot = update.view, update.snapshot
    if view.ended and update.snapshot.seq >= view.snapshot.seq:
        return view.status.value
    if view.orphaned:
        return f"worker {snapshot.worker_name} stopped answering"
    if view.cancel_asked:
        return "cancelling"
    if snapshot.status is Status.QUEUED and view.paused:
        return "paused"
    if snapshot.status is Status.QUEUED and view.relations.waits and not snapshot.attempt:
        return "waiting for the jobs before it"
    if snapshot.status is Status.QUEUED:
        return "waiting for a worker" + (f" ({snapshot.message})" if snapshot.message else "")
    return snapshot.message or snapshot.doing
