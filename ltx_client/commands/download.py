"""`ltx download`: fetch finished videos."""

from __future__ import annotations

from pathlib import Path

import click

from ltx_client.batches import Batch
from ltx_client.commands.render import output_path
from ltx_client.completion import complete_batches, complete_jobs
from ltx_client.errors import JobFailed, UsageError
from ltx_client.farm import Farm
from ltx_client.files import is_here
from ltx_client.local.members import Use
from ltx_client.output import notice, print_line, short_id
from ltx_client.protocol.text import json_text
from ltx_client.sheet import draw_sheet
from ltx_client.views import JobView

__all__ = ["command", "download_batch"]

INDEX = "index.json"
SHEET = "contact-sheet.png"


@click.command("download", epilog="Example: ltx download 3fa85f64a1b2 -o ball.mp4")
@click.argument("job", metavar="[JOB]", required=False, shell_complete=complete_jobs)
@click.option(
    "--batch",
    metavar="ID",
    shell_complete=complete_batches,
    help="All finished videos of that batch (see ltx batches), into a folder.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The MP4 to write, or a batch's folder.  [default: ltx-JOB.mp4, or ltx-BATCH, in this folder]",
)
@click.option("--sheet", is_flag=True, help=f"Draw a batch's {SHEET} too: a frame of each video.")
def command(job: str | None, batch: str | None, output: Path | None, sheet: bool) -> None:
    """Fetches the MP4 of a finished job, checks it, and prints its path.

    Of a batch, all that are done and not in the folder already, and index.json, which says what each is.
    """
    if (job is None) == (batch is None):
        raise UsageError("name one JOB (ltx jobs lists them), or a batch with --batch")
    if sheet and batch is None:
        raise UsageError("--sheet draws the videos of a batch; name one with --batch")
    with Farm.connect(use=Use.READ) as farm:
        if batch is not None:
            whole = farm.batch(batch)
            download_batch(farm, whole, output or Path(f"ltx-{short_id(whole.id)}"), sheet=sheet)
            return
        assert job is not None
        job_id = farm.find(job)
        target = output_path(output, job_id)
        farm.download(job_id, target)
    print_line(target, done=f"the video is {target}")


def download_batch(farm: Farm, batch: Batch, folder: Path, *, sheet: bool = False) -> None:
    """Fetches what is done of a batch, and prints the paths. Raises JobFailed when something of it is not done."""
    done = [view for view in batch.views if view.snapshot.result is not None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}") from None
    for view in done:
        target = folder / video_name(view)
        if not is_here(view, target):
            farm.download(view.job.id, target)
        print_line(target, done=f"the video is {target}")
    (folder / INDEX).write_text(json_text([_entry(view) for view in batch.views], indent=2) + "\n")
    if sheet and done:
        draw_sheet([(folder / video_name(view), _caption(view)) for view in done], folder / SHEET)
        print_line(folder / SHEET, done=f"the contact sheet is {folder / SHEET}")
    missing = [view for view in batch.views if view.snapshot.result is None]
    if missing:
        for view in missing:
            notice(f"{video_name(view)} is not there: job {view.job.id} is {view.status}{_why(view)}")
        raise JobFailed(f"{len(missing)} of {len(batch.views)} videos of batch {batch.id} are not done")


def video_name(view: JobView) -> str:
    """What a video of a batch is called: its place in it, and its job."""
    return f"{view.links.item or 0:04}-{short_id(view.job.id)}.mp4"


def _why(view: JobView) -> str:
    return f": {view.snapshot.error}" if view.snapshot.error else ""


def _caption(view: JobView) -> str:
    return f"{view.links.item}  seed {view.job.request.seed}\n{view.job.request.prompt}"


def _entry(view: JobView) -> dict[str, object]:
    request = view.job.model_dump(mode="json")["request"]
    entry = {"item": view.links.item, "file": video_name(view), "job": view.job.id, "status": view.status}
    return {**entry, "error": view.snapshot.error, "variant": view.job.variant, "request": request}
