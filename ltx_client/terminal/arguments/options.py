"""Define options that several commands share, under the same names everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ltx_client.errors import UsageError
from ltx_client.farm.outputs.names import FIELDS
from ltx_client.protocol.fair_turns import DEFAULT_PRIORITY
from ltx_client.terminal.arguments.completion import (
    complete_batches,
    complete_jobs,
    complete_variants,
    complete_workers,
)
from ltx_models.families.variants import DEFAULT_VARIANT, Variant, find_variant

if TYPE_CHECKING:
    from ltx_client.farm.jobs.prepare import Prepared

__all__ = [
    "COUNT",
    "FIELDS_HELP",
    "OutputPath",
    "batch_option",
    "describing_options",
    "dry_run_option",
    "job_argument",
    "job_from_options",
    "jobs_argument",
    "json_option",
    "link_options",
    "notify_options",
    "operator_options",
    "video_options",
]

FIELDS_HELP = (
    f"Fields are filled in: {', '.join(f'{{{name}}}' for name in FIELDS)}, as in '{{prompt:.40}}-{{seed}}.mp4'; {{{{"
    " is a brace. An existing file is replaced."
)
"""Help for outputs that take a template."""

COUNT = click.IntRange(1, 10**9)
"""The type of a list's --limit; its bound is a little below the largest count that brokers accept."""

F = TypeVar("F", bound=Callable[..., Any])

IMAGE = "FILE[@FRAME[:STRENGTH]]"
CLIP = "FILE[@START]"

_LISTS = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx", ".ods", ".numbers")
"""Suffixes of files with many prompts."""

_DESCRIBING = (
    click.option(
        "-v",
        "--variant",
        default=DEFAULT_VARIANT,
        show_default=True,
        shell_complete=complete_variants,
        help="The model variant that renders the video.",
    ),
    click.option("--width", type=int, help="Pixels, a multiple of 32.  [default: the variant's]"),
    click.option("--height", type=int, help="Pixels, a multiple of 32.  [default: the variant's]"),
    click.option("--frames", type=int, help="Number of frames, 8n+1.  [default: the variant's]"),
    click.option("--seconds", type=float, help="The video's length, rounded to 8n+1 frames, in place of --frames."),
    click.option("--fps", type=float, help="Frames a second.  [default: the variant's]"),
    click.option("--steps", type=int, help="Denoising steps.  [default: the variant's]"),
    click.option("--guidance", type=float, help="Classifier-free guidance, 1 is off.  [default: the variant's]"),
    click.option("--negative-prompt", help="What the video should not show.  [default: the variant's]"),
    click.option(
        "--image",
        "images",
        metavar=IMAGE,
        multiple=True,
        help="A picture that frame FRAME (0; last) is to show; white where it is transparent.  [repeat]",
    ),
    click.option(
        "--video",
        "videos",
        metavar=CLIP,
        multiple=True,
        help="A clip to continue from its end, of which 25 frames are read (fewer if less than 8 were left to render);"
        " from second (or m:ss) START on; or, as 'FILE[FROM-TO]', from that part. @FRAME:STRENGTH after FILE"
        " or the part: a clip to show from frame FRAME on.  [repeat]",
    ),
    click.option("--crop/--no-crop", default=True, help="Cut pictures to the video's shape, or stretch them."),
    click.option("--blur/--no-blur", default=True, help="Blur pictures slightly, as the model was trained."),
    click.option("--compress/--no-compress", default=True, help="Compress pictures once, as the model was trained."),
    click.option("--priority", type=int, default=DEFAULT_PRIORITY, show_default=True, help="0 is first, 9 is last."),
    click.option(
        "--checkpoint-every", type=int, default=3, show_default=True, help="Steps between preview frames, 0 for none."
    ),
    click.option("--time-limit", type=float, help="Seconds that the render may take.  [default: the worker's]"),
)
_OF_ONE = (
    click.option("--seed", type=int, help="The same seed gives the same video.  [default: drawn, and shown]"),
    click.option(
        "--id",
        "job_id",
        help="The job's id; submitting it again with the same --seed queues nothing twice.  [default: a UUID]",
    ),
)


class OutputPath(click.Path):
    """An output as it was given; `ltx_client.farm.outputs.naming` interprets it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the value unchanged."""
        return str(value)


def describing_options(function: F) -> F:
    """Add the options that describe any number of videos and their jobs."""
    for option in reversed(_DESCRIBING):
        function = option(function)
    return function


def video_options(function: F) -> F:
    """Add the prompt and the options that describe one video and its job."""
    for option in reversed((click.argument("prompt", callback=_no_file), *_DESCRIBING, *_OF_ONE)):
        function = option(function)
    return function


def _no_file(_: click.Context, __: click.Parameter, prompt: str) -> str:
    """Return the prompt. Raise UsageError if it is the name of a list of prompts."""
    try:
        is_list = Path(prompt).suffix.lower() in _LISTS and Path(prompt).is_file()
    except OSError:  # too long for a file's name
        return prompt
    if is_list:
        raise UsageError(f"{prompt} is a file, not a prompt; `ltx batch {prompt}` renders what is in it")
    return prompt


def link_options(function: F) -> F:
    """Add --after and --not-on, for commands that submit."""
    function = click.option(
        "--not-on",
        multiple=True,
        metavar="WORKER",
        shell_complete=complete_workers,
        help="Exclude the worker with that name or id.  [repeat]",
    )(function)
    return click.option(
        "--after",
        multiple=True,
        metavar="ID",
        shell_complete=complete_jobs,
        help="Begin when that job or batch has ended.  [repeat]",
    )(function)


def dry_run_option(function: F) -> F:
    """Add --dry-run, for commands that submit."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Only print what the render needs, which workers can do it, and how long it takes.",
    )(function)


def notify_options(function: F) -> F:
    """Add --notify and --desktop, for commands that wait for jobs."""
    function = click.option(
        "--desktop/--no-desktop",
        default=None,
        help="Show a notification at the end.  [default: in a terminal, after 30 s]",
    )(function)
    return click.option(
        "--notify", metavar="URL", help="POST the jobs' ends to this URL (signed: see ltx_client/README.md)."
    )(function)


def batch_option(function: F) -> F:
    """Add --batch, for commands that take jobs."""
    return click.option(
        "--batch", metavar="ID", shell_complete=complete_batches, help="All jobs of that batch (see ltx batches)."
    )(function)


def operator_options(function: F) -> F:
    """Add --worker and --queue, for commands that pause and resume."""
    function = click.option(
        "--queue",
        "queues",
        multiple=True,
        metavar="VARIANT",
        shell_complete=complete_variants,
        help="All jobs of that variant, whoever submitted them.  [repeat]",
    )(function)
    return click.option(
        "--worker",
        "workers",
        multiple=True,
        metavar="NAME",
        shell_complete=complete_workers,
        help="The worker with that name or id (see ltx workers).  [repeat]",
    )(function)


def jobs_argument(function: F) -> F:
    """Add any number of JOBs: ids, or the ends of ids."""
    return click.argument("jobs", metavar="[JOB]...", nargs=-1, shell_complete=complete_jobs)(function)


def job_from_options(
    *,
    prompt: str,
    variant: str,
    width: int | None,
    height: int | None,
    frames: int | None,
    seconds: float | None,
    fps: float | None,
    steps: int | None,
    guidance: float | None,
    negative_prompt: str | None,
    images: tuple[str, ...],
    videos: tuple[str, ...],
    crop: bool,
    blur: bool,
    compress: bool,
    seed: int | None,
    priority: int,
    checkpoint_every: int,
    time_limit: float | None,
    job_id: str | None,
) -> Prepared:
    """Return the job that `video_options` describe. Raise what `prepare` raises."""
    from ltx_client.farm.jobs.prepare import prepare
    from ltx_client.terminal.arguments.media_options import media_item
    from ltx_models.request import GenerationRequest, refusals_of

    if seconds is not None:
        if frames is not None:
            raise UsageError("--frames and --seconds were both given; use one of the two")
        frames = _frames_of(seconds, fps, find_variant(variant))
    with refusals_of(find_variant(variant)):
        switches = {"crop": crop, "blur": blur, "compress": compress}
        media = [media_item("image", text, **switches) for text in images]
        media += [media_item("video", text, **switches) for text in videos]
        request = GenerationRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_frames=frames,
            frame_rate=fps,
            num_steps=steps,
            guidance_scale=guidance,
            conditioning=tuple(media),
            seed=seed,
        )
    return prepare(
        request,
        variant=variant,
        priority=priority,
        checkpoint_every=checkpoint_every,
        time_limit=time_limit,
        job_id=job_id,
    )


def _frames_of(seconds: float, fps: float | None, variant: Variant) -> int:
    """Return the nearest number of frames that a variant's video can have."""
    frame_rate = fps or variant.frame_rate
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g} is invalid: it is not a length; use a number above 0")
    if not math.isfinite(seconds * frame_rate):
        raise UsageError(
            f"--seconds {seconds:g} at {frame_rate:g} frames a second is not a number of frames; use other values"
        )
    return variant.family.limits.nearest_frames(seconds * frame_rate)


def job_argument(function: F) -> F:
    """Add a JOB: an id, or the end of one."""
    return click.argument("job", metavar="JOB", shell_complete=complete_jobs)(function)


def json_option(function: F) -> F:
    """Add --json, for commands that list or show."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
