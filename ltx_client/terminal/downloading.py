"""Download videos for commands, and tell a person what a download waits for."""

from __future__ import annotations

import json
from pathlib import Path

from ltx_client.errors import JobFailed
from ltx_client.farm.batches import Batch
from ltx_client.farm.describe import describe_index_entry
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.files import is_here
from ltx_client.farm.jobs.views import JobView
from ltx_client.farm.outputs.names import SHEET
from ltx_client.farm.outputs.naming import BatchOutput
from ltx_client.farm.outputs.paths import make_folder, waits_for_reader, write_output
from ltx_client.farm.outputs.templates import safe_name
from ltx_client.protocol.text import json_text
from ltx_client.terminal.contact_sheet import draw_sheet
from ltx_client.terminal.output import notice, print_line, short_id

__all__ = ["download_batch", "fetch", "tell_of_reader"]

INDEX = "index.json"


def fetch(farm: Farm, job_id: str, target: Path) -> None:
    """Download a finished job's video, as `Farm.download`."""
    make_folder(target.parent)
    tell_of_reader(target)
    farm.download(job_id, target)


def tell_of_reader(path: Path) -> None:
    """Say so if nothing is written to a path before somebody reads it."""
    if waits_for_reader(path):
        notice(f"{path} is a named pipe: it is written to when something reads it")


def download_batch(farm: Farm, batch: Batch, output: BatchOutput, *, sheet: bool = False) -> None:
    """Download the finished videos of a batch, and print their paths.

    Raises:
        JobFailed: A video of the batch is not done.
    """
    folder = output.folder
    paths = output.paths((view.job, view.submitted_at, view.relations.item or 0) for view in batch.views)
    videos = list(zip(batch.views, paths, strict=True))
    done = [(view, path) for view, path in videos if view.snapshot.result is not None]
    make_folder(folder)
    for number, (view, path) in enumerate(done, 1):
        if not is_here(view, path):
            fetch(farm, view.job.id, path)
        fetch_others = f"ltx download --batch {short_id(batch.id)} downloads the others"
        rest = "" if number == len(done) else f", {number} of {len(done)}; {fetch_others}"
        print_line(path, done=f"the video is {path}{rest}")
    name = INDEX if _may_be_replaced(folder / INDEX, batch) else safe_name(f"index-{short_id(batch.id)}.json")
    if name != INDEX:
        notice(f"{folder / INDEX} belongs to something else, and is kept; the videos are described in {name}")
    index = json_text([describe_index_entry(view, path.relative_to(folder)) for view, path in videos], indent=2)
    write_output(folder / name, f"{index}\n".encode("utf-8", "surrogateescape"))
    if sheet and done:
        draw_sheet([(path, _caption(view)) for view, path in done], folder / SHEET)
        print_line(folder / SHEET, done=f"the contact sheet is {folder / SHEET}")
    missing = [(view, path) for view, path in videos if view.snapshot.result is None]
    if missing:
        for view, path in missing:
            notice(f"{path.name} is missing: job {view.job.id} is {view.status}{_why(view)}")
        raise JobFailed(f"{len(missing)} of {len(batch.views)} videos of batch {batch.id} are not done")


def _may_be_replaced(index: Path, batch: Batch) -> bool:
    """Return whether an index is this batch's, or nothing of value."""
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
    return f"{view.relations.item}  seed {view.job.request.seed}\n{view.job.request.prompt}"
