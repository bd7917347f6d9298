"""`ltx download`: fetch finished videos."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ltx_client.batches import Batch
from ltx_client.completion import complete_batches, complete_jobs
from ltx_client.errors import JobFailed, UsageError
from ltx_client.farm import Farm
from ltx_client.fetching import fetch
from ltx_client.files import is_here
from ltx_client.local.members import Use
from ltx_client.options import FIELDS_HELP, OutputPath
from ltx_client.output import notice, print_line, short_id
from ltx_client.output_naming import BatchOutput, VideoOutput
from ltx_client.output_paths import is_stdout, make_folder, write_output
from ltx_client.output_templates import safe_name
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
    type=OutputPath(),
    help=f"The MP4 to write, or its folder, or a batch's; - is standard output. {FIELDS_HELP}"
    "  [default: ltx-JOB.mp4, or ltx-BATCH, in this folder]",
)
@click.option("--sheet", is_flag=True, help=f"Draw a batch's {SHEET} too: a frame of each video.")
def command(job: str | None, batch: str | None, output: str | None, sheet: bool) -> None:
    """Fetches the MP4 of a finished job, checks it, and prints its path.

    Of a batch, all that are done and not in the folder already, and index.json, which says what each is
    (index-BATCH.json where an index.json is that is not of this batch).
    """
    if (job is None) == (batch is None):
        raise UsageError("name one JOB (ltx jobs lists them), or a batch with --batch")
    if sheet and batch is None:
        raise UsageError("--sheet draws the videos of a batch; name one with --batch")
    if batch is not None:
        _download_batch(batch, None if output is None else BatchOutput.parse(output), sheet=sheet)
        return
    assert job is not None
    wanted = VideoOutput(output)
    with Farm.connect(use=Use.READ) as farm:
        view = farm.view(farm.find(job))
        target = wanted.path(view.job, view.submitted_at, view.links.item)
        fetch(farm, view.job.id, target)
    if not is_stdout(target):
        print_line(target, done=f"the video is {target}")


def _download_batch(name: str, output: BatchOutput | None, *, sheet: bool) -> None:
    with Farm.connect(use=Use.READ) as farm:
        batch = farm.batch(name)
        download_batch(farm, batch, output or BatchOutput.default(batch.id), sheet=sheet)


def download_batch(farm: Farm, batch: Batch, output: BatchOutput, *, sheet: bool = False) -> None:
    """Fetches what is done of a batch, and prints the paths. Raises JobFailed when something of it is not done."""
    folder = output.folder
    paths = output.paths((view.job, view.submitted_at, view.links.item or 0) for view in batch.views)
    videos = list(zip(batch.views, paths, strict=True))
    done = [(view, path) for view, path in videos if view.snapshot.result is not None]
    make_folder(folder)
    for number, (view, path) in enumerate(done, 1):
        if not is_here(view, path):
            fetch(farm, view.job.id, path)
        fetch_others = f"ltx download --batch {short_id(batch.id)} fetches the others"
        rest = "" if number == len(done) else f", {number} of {len(done)}; {fetch_others}"
        print_line(path, done=f"the video is {path}{rest}")
    name = INDEX if _may_be_replaced(folder / INDEX, batch) else safe_name(f"index-{short_id(batch.id)}.json")
    if name != INDEX:
        notice(f"{folder / INDEX} is not this batch's, and stays; what each video is is said in {name}")
    index = json_text([_entry(view, path.relative_to(folder)) for view, path in videos], indent=2)
    write_output(folder / name, f"{index}\n".encode("utf-8", "surrogateescape"))
    if sheet and done:
        draw_sheet([(path, _caption(view)) for view, path in done], folder / SHEET)
        print_line(folder / SHEET, done=f"the contact sheet is {folder / SHEET}")
    missing = [(view, path) for view, path in videos if view.snapshot.result is None]
    if missing:
        for view, path in missing:
            notice(f"{path.name} is not there: job {view.job.id} is {view.status}{_why(view)}")
        raise JobFailed(f"{len(missing)} of {len(batch.views)} videos of batch {batch.id} are not done")


def _may_be_replaced(index: Path, batch: Batch) -> bool:
    """Return whether an index is this batch's, or nothing that anybody would miss."""
    if not index.is_file():
        return True
    try:
        jobs = {entry["job"] for entry in json.loads(index.read_bytes())}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    return not jobs or not jobs.isdisjoint(view.job.id for view in batch.views)


def _why(view: JobView) -> str:
    return f": {view.snapshot.error}" if view.snapshot.error else ""


def _caption(view: JobView) -> str:
    return f"{view.links.item}  seed {view.job.request.seed}\n{view.job.request.prompt}"


def _entry(view: JobView, path: Path) -> dict[str, object]:
    request = view.job.model_dump(mode="json")["request"]
    entry = {"item": view.links.item, "file": str(path), "job": view.job.id, "status": view.status}
    return {**entry, "error": view.snapshot.error, "variant": view.job.variant, "request": request}
