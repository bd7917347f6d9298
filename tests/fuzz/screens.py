"""Render everything that commands show of a job, for people and programs, on a hidden screen."""

import io
import json
import math
import time

from rich.console import Console, Group
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ltx_client.commands.jobs import show
from ltx_client.farm.describe import describe_job, describe_stats
from ltx_client.farm.jobs.forecast import measure, places
from ltx_client.farm.jobs.views import Update
from ltx_client.terminal.listing import Listing
from ltx_client.terminal.output import jobs_table, workers_table
from ltx_client.terminal.watching.live_table import LiveDisplay
from ltx_client.terminal.watching.progress import BarDisplay, PlainDisplay

__all__ = ["draw", "show_job", "show_redrawn", "show_update", "show_workers"]

SCREEN = Console(file=io.StringIO(), width=100, height=20, force_terminal=True)


def draw(renderable):
    """Draw everything that can fail; the layout, which takes most of the time, is left out."""
    if isinstance(renderable, Listing):
        renderable = renderable.table(80)
    if isinstance(renderable, Group):
        for part in renderable.renderables:
            draw(part)
    elif isinstance(renderable, Table):
        for column in renderable.columns:
            for cell in column.cells:
                draw(cell)
    else:
        assert isinstance(renderable, str | Text)


def show_job(view, workers=()):
    """Show a job as `ltx jobs`, `ltx show`, `ltx stats` and their --json do."""
    draw(jobs_table([view], 1.8e9))
    place = places([view], workers, measure([view], workers), 1.8e9).get(view.job.id)
    assert all(isinstance(value, str) for value in show._facts(view, "s3://farm", place, None, "", 1.8e9).values())
    json.dumps(describe_job(view), allow_nan=False)
    json.dumps(describe_stats([view], workers), allow_nan=False)


def show_update(update):
    """Show an update as `ltx watch` and `ltx logs` do."""
    PlainDisplay(with_ids=True).show(update)
    if update.event is not None:
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(update.event.at))
        " ".join(update.event.words)
        json.dumps(update.event.model_dump(), allow_nan=False)


def show_redrawn(view, snapshot):
    """Show one job and several as `ltx watch` does in a terminal."""
    update = Update(None, snapshot, view)
    live = LiveDisplay(None, SCREEN)
    live._look_at = math.inf
    live.show(update)
    draw(live.table())
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[detail]}", markup=False),
        console=SCREEN,
    )
    BarDisplay(progress, with_ids=True).show(update)
    draw(progress.make_tasks_table(progress.tasks))


def show_workers(workers):
    """Show workers as `ltx workers` does."""
    draw(workers_table(workers, 1.8e9))
    json.dumps([worker.model_dump() for worker in workers], allow_nan=False)
