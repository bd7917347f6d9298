"""Run `ltx show`: show everything about one job."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from ltx_client.errors import UsageError
from ltx_client.farm.outputs.paths import JPEG, is_stdout, output_path, write_output
from ltx_client.protocol.redaction import shown_url
from ltx_client.shared.console.stdio import notice, print_json
from ltx_client.terminal.arguments.options import OutputPath, job_argument, json_option

if TYPE_CHECKING:
    from ltx_client.farm.jobs.forecast import Place
    from ltx_client.farm.jobs.views import JobView
    from ltx_client.protocol.pauses import Pause

__all__ = ["command"]


@click.command("show", epilog="Example: ltx show 3fa85f64a1b2 --preview now.jpg")
@job_argument
@click.option(
    "--preview", type=OutputPath(), help="Write the newest checkpoint frame to this JPEG; - is standard output."
)
@json_option
def command(job: str, preview: str | None, as_json: bool) -> None:
    """Show one job: its request, its state, and where its result is."""
    from ltx_client.farm.describe import describe_job
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.obstacles import paused_queue
    from ltx_client.local.members import Use
    from ltx_client.terminal.downloading import tell_of_reader
    from ltx_client.terminal.output import print_facts

    path = None if preview is None else output_path(preview, JPEG)
    if as_json and is_stdout(path):
        raise UsageError(f"--json and --preview {preview} are both written to standard output; leave out one of them")
    with Farm.connect(use=Use.READ) as farm:
        view = farm.view(farm.find(job))
        if path is not None:
            frame = farm.preview(view.job.id)
            if frame is None:
                raise UsageError(f"job {view.job.id} has no preview frame now")
            tell_of_reader(path)
            write_output(path, frame)
            notice(f"wrote {preview}")
        storage_url = farm.storage_url
        now = farm.now()
        place = None if view.ended else farm.places().get(view.job.id)
        pauses = [] if view.ended else farm.pauses()
        waits_for = "" if view.ended else farm.why_waiting(view.job.id)
    paused = paused_queue(view.job, pauses)
    if as_json:
        print_json(describe_job(view, place=place, queue_paused=paused, waits_for=waits_for))
    else:
        print_facts(_facts(view, storage_url, place, paused, waits_for, now), stderr=is_stdout(path))


def _facts(
    view: JobView, storage_url: str | None, place: Place | None, paused: Pause | None, waits_for: str, now: float
) -> dict[str, str]:
    from ltx_client.terminal.output import ago, duration, pause_text, place_text, status_word
    from ltx_client.terminal.watching.progress import progress_text

    snapshot, job = view.snapshot, view.job
    rows = {
        "job": job.id,
        "status": status_word(view) + (", its worker stopped answering" if view.orphaned else ""),
        "newer": view.newer,
        "stage": "" if view.ended else snapshot.doing,
        "queue": "; ".join([*([pause_text(paused, now)] if paused else []), *([place_text(place)] if place else [])]),
        "waits": "" if paused else waits_for,
        "progress": progress_text(snapshot),
        "cut": "; ".join(text.sentence for text in snapshot.cut),
        "error": snapshot.error or "",
        "worker": snapshot.worker_name or "",
        "attempt": str(snapshot.attempt or ""),
        "lost steps": _lost_steps(snapshot.lost_steps),
        "submitted": f"{ago(view.submitted_at, now)} by {job.submitter}",
        "took": "" if snapshot.took is None else duration(snapshot.took),
        "variant": job.variant,
        "priority": str(job.priority),
        "batch": f"{view.relations.batch}, video {view.relations.item}" if view.relations.batch else "",
        "after": ", ".join([*view.relations.after_jobs, *view.relations.after_batches]),
        "not on": ", ".join(view.relations.not_on),
        "retry of": view.relations.retry_of or "",
        "memory": f"{job.predicted_peak / 1e9:.2g} GB predicted",
        **{
            name.replace("_", " "): f"{value}"
            for name, value in dataclasses.asdict(job.request).items()
            if value not in (None, "")
        },
    }
    if snapshot.result is not None:
        folder = shown_url(storage_url or "").rstrip("/")
        rows["video"] = f"{folder}/{snapshot.result.video}"
        rows["poster"] = f"{folder}/{snapshot.result.poster}" if snapshot.result.poster else ""
        rows["sha256"] = snapshot.result.sha256
    return rows


def _lost_steps(count: int) -> str:
    return f"{count}, done again since an attempt ended early" if count else ""
