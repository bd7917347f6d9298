"""Run `ltx render`: submit a job, watch it, and download its video."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltx_client.errors import INTERRUPTED, FarmError, JobCancelled, JobFailed, JobNotFound, UsageError
from ltx_client.farm.outputs.names import short_id
from ltx_client.farm.outputs.paths import JPEG, is_stdout, output_path, place_of, write_output
from ltx_client.shared.console.stdio import notice, print_line
from ltx_client.terminal.arguments.options import (
    FIELDS_HELP,
    OutputPath,
    dry_run_option,
    job_from_options,
    link_options,
    notify_options,
    video_options,
)
from ltx_models.families.variants import find_variant

if TYPE_CHECKING:
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.views import JobView
    from ltx_client.protocol.jobs import Job, Relations
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.terminal.watching.terminal_images import Picture

__all__ = ["command"]


@click.command(
    "render",
    epilog='Example: ltx render "a red ball rolls to the right on a navy background" -o ball.mp4 --seed 7',
)
@video_options
@click.option(
    "-o",
    "--output",
    type=OutputPath(),
    help=f"The MP4 to write, or its folder; - is standard output. {FIELDS_HELP}  [default: ltx-JOB.mp4 in this folder]",
)
@click.option(
    "--inline/--no-inline",
    default=None,
    help="Show checkpoint frames in the terminal.  [default: if it can; needs ltx-farm[previews]]",
)
@click.option("--preview", type=OutputPath(), help="Keep the newest checkpoint frame in this JPEG.")
@link_options
@dry_run_option
@notify_options
def command(
    output: str | None,
    preview: str | None,
    inline: bool | None,
    after: tuple[str, ...],
    not_on: tuple[str, ...],
    dry_run: bool,
    notify: str | None,
    desktop: bool | None,
    **options: Any,
) -> None:
    """Render PROMPT, show its progress, and download the MP4; its path is printed last.

    Ctrl-C asks whether to cancel the job or to leave it running.
    """
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.inputs import clip_parts
    from ltx_client.farm.outputs.naming import VideoOutput
    from ltx_client.local.members import Use
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.terminal.end_notifications import EndNotifications
    from ltx_client.terminal.notices.dry_run import print_plan
    from ltx_client.terminal.notices.prompt_length import tell_of_cut_texts
    from ltx_client.terminal.watching.terminal_images import detect
    from ltx_models.memory import limits_of

    job, inputs = job_from_options(**options)
    target = VideoOutput(output).path(job, time.time())
    frames = None if preview is None else _preview_path(preview, target)
    for part in clip_parts(job.request, inputs, limits_of(job.variant)):
        notice(str(part))
    ending = EndNotifications(notify, desktop)
    picture = None if dry_run else detect(inline)
    settings = FarmSettings()
    if dry_run:
        print_plan(settings, [job], after, not_on)
        tell_of_cut_texts(job)
        return
    with Farm.connect(settings, Use.RENDER, job.variant) as farm:
        relations = farm.relations(after, not_on)
        try:
            _announce(farm, job, relations)
            _warn_of_storage(farm)
            farm.send(job, inputs, relations)
            view = _follow(farm, job, frames, picture)
        except KeyboardInterrupt:
            view = _interrupted(farm, job, frames, settings)
        ending.tell([view])
        _deliver(farm, view, target, path_is_data=not is_stdout(frames))


def _preview_path(given: str, target: Path) -> Path:
    path = output_path(given, JPEG)
    if place_of(path) == place_of(target) or (is_stdout(path) and is_stdout(target)):
        raise UsageError(f"the video and its preview would both be written to {given}; use two names")
    return path


def _deliver(farm: Farm, view: JobView, target: Path, *, path_is_data: bool) -> None:
    """Download the job's video and say where it is, or raise what the job's end means."""
    from ltx_client.protocol.state import Status
    from ltx_client.terminal.downloading import fetch
    from ltx_client.terminal.output import duration

    job_id, snapshot = view.job.id, view.snapshot
    if view.status is Status.CANCELLED:
        raise JobCancelled(f"job {job_id} was cancelled")
    if view.status is Status.FAILED:
        raise JobFailed(f"job {job_id} failed: {snapshot.error}")
    if farm.storage_url is None and farm.link(job_id) is None:
        notice(f"done, but LTX_STORAGE_URL is not set: set it as the workers do, then ltx download {short_id(job_id)}")
        return
    try:
        fetch(farm, job_id, target)
    except KeyboardInterrupt:
        notice("")
        notice(f"stopped waiting; the video is kept, and ltx download {short_id(job_id)} downloads it")
        raise click.exceptions.Exit(INTERRUPTED) from None
    if snapshot.took is not None:
        notice(f"rendered in {duration(snapshot.took)} on {snapshot.worker_name}")
    if is_stdout(target):
        return
    if path_is_data:
        print_line(target, done=f"the video is {target}")
    else:
        notice(str(target))


def _written(preview: Path, frame: bytes) -> Path | None:
    """Write a frame. Return where to write the next one; None if this one could not be written."""
    try:
        write_output(preview, frame, wait=False)
    except UsageError as error:
        notice(f"warning: {error}; no more frames are written there")
        return None
    return preview


def _announce(farm: Farm, job: Job, relations: Relations) -> None:
    from ltx_client.terminal.notices.prompt_length import tell_of_cut_texts
    from ltx_client.terminal.notices.vocabulary import vocabulary_note
    from ltx_client.terminal.notices.wait_reasons import tell_of_pauses, tell_who_waits

    request = job.request
    notice(f"job {job.id}")
    notice(
        f"{job.variant}, {request.width}x{request.height}, {request.num_frames} frames at"
        f" {request.frame_rate:g} fps, {request.num_steps} steps, seed {request.seed}"
    )
    if introduction := find_variant(job.variant).introduction:
        notice(f"{job.variant} is {introduction}")
    if note := vocabulary_note(job.variant, job.request.prompt):
        notice(note)
    tell_of_cut_texts(job)
    if farm.is_embedded:  # its worker is about to start
        tell_of_pauses(farm, [job.variant])
    else:
        tell_who_waits(farm, [(job, relations)])


def _warn_of_storage(farm: Farm) -> None:
    """Warn before the render, not after it, that its video cannot be downloaded from here."""
    from ltx_client.shared.storage.store import Storage, StorageError

    if farm.is_embedded or farm.storage_url is None:
        return
    try:
        Storage(farm.storage_url).identify()
    except StorageError as error:
        notice(f"warning: {error}; the video will be rendered, but cannot be downloaded until that is fixed")


def _follow(farm: Farm, job: Job, preview: Path | None, picture: Picture | None = None) -> JobView:
    """Show the job until it ends."""
    from ltx_client.terminal.notices.prompt_length import cut_texts
    from ltx_client.terminal.notices.wait_reasons import explain_waits
    from ltx_client.terminal.watching.progress import display

    view, shown = None, None
    job_id, told = job.id, cut_texts(job)
    with display(told=[job_id] if told else ()) as screen:
        for update in explain_waits(farm, farm.watch(job_id)):
            screen.show(update)
            view = update.view
            if (preview or picture) and update.snapshot.preview_step not in (None, shown):
                shown = update.snapshot.preview_step
                frame = farm.preview(job_id)
                if frame and preview is not None:
                    preview = _written(preview, frame)
                if frame and picture is not None:
                    screen.show_picture(picture(frame))
    assert view is not None
    return view


def _interrupted(farm: Farm, job: Job, preview: Path | None, settings: FarmSettings) -> JobView:
    """Ask once whether to cancel the job. Without a terminal, SIGINT cancels it. A second interrupt leaves at once."""
    became = "is unchanged"
    try:
        farm.view(job.id)  # else there is nothing to ask
        if sys.stdin.isatty() and not click.confirm("\nCancel the job? (no: it continues without you)", err=True):
            _let_go_on(job, settings)
            raise click.exceptions.Exit(0)
        became = "is told to stop"
        farm.cancel(job.id)
        return _follow(farm, job, preview)
    except JobNotFound:
        raise JobCancelled("interrupted before the job was queued") from None
    except (KeyboardInterrupt, click.Abort):
        notice("")
        notice(f"stopped; job {job.id} {became}, see ltx show {short_id(job.id)}")
        raise click.exceptions.Exit(INTERRUPTED) from None


def _let_go_on(job: Job, settings: FarmSettings) -> None:
    from ltx_client.local.background import continue_in_background

    name = short_id(job.id)
    if settings.broker_url is None:
        try:
            continue_in_background(settings.home, job.variant)
        except FarmError as error:
            raise FarmError(f"{error}; job {name} stays queued until `ltx up` renders it") from error
        notice("the farm continues in the background until its queue is empty; `ltx up --stop` stops it before that")
    notice(f"job {name} continues; ltx watch {name} shows it, ltx download {name} downloads the video")
