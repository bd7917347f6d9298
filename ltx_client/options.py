"""Options that several commands share, under the same names everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ltx_client.prepare import DEFAULT_VARIANT, prepare
from ltx_client.protocol.jobs import DEFAULT_PRIORITY, Job
from ltx_models.request import GenerationRequest

__all__ = ["job_argument", "job_from_options", "json_option", "video_options"]

F = TypeVar("F", bound=Callable[..., Any])

_VIDEO_OPTIONS = (
    click.argument("prompt"),
    click.option(
        "-v", "--variant", default=DEFAULT_VARIANT, show_default=True, help="The model variant that renders it."
    ),
    click.option("--width", type=int, help="Pixels, a multiple of 32.  [default: the variant's]"),
    click.option("--height", type=int, help="Pixels, a multiple of 32.  [default: the variant's]"),
    click.option("--frames", type=int, help="Number of frames, 8n+1.  [default: the variant's]"),
    click.option("--fps", type=float, help="Frames a second.  [default: the variant's]"),
    click.option("--steps", type=int, help="Denoising steps.  [default: the variant's]"),
    click.option("--guidance", type=float, help="Classifier-free guidance, 1 is off.  [default: the variant's]"),
    click.option("--negative-prompt", help="What the video should not show.  [default: the variant's]"),
    click.option("--seed", type=int, help="The same seed gives the same video.  [default: drawn, and shown]"),
    click.option("--priority", type=int, default=DEFAULT_PRIORITY, show_default=True, help="0 is first, 9 is last."),
    click.option(
        "--checkpoint-every", type=int, default=3, show_default=True, help="Steps between preview frames, 0 for none."
    ),
    click.option("--time-limit", type=float, help="Seconds that the render may take.  [default: the worker's]"),
    click.option("--id", "job_id", help="The job's id; the same again submits nothing twice.  [default: a UUID]"),
)


def video_options(function: F) -> F:
    """Everything that describes a video and its job."""
    for option in reversed(_VIDEO_OPTIONS):
        function = option(function)
    return function


def job_from_options(
    *,
    prompt: str,
    variant: str,
    width: int | None,
    height: int | None,
    frames: int | None,
    fps: float | None,
    steps: int | None,
    guidance: float | None,
    negative_prompt: str | None,
    seed: int | None,
    priority: int,
    checkpoint_every: int,
    time_limit: float | None,
    job_id: str | None,
) -> Job:
    """The job that `video_options` describe. Raises what `prepare` raises."""
    request = GenerationRequest(
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        num_frames=frames,
        frame_rate=fps,
        num_steps=steps,
        guidance_scale=guidance,
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


def job_argument(function: F) -> F:
    """JOB: an id, or how it ends."""
    return click.argument("job", metavar="JOB")(function)


def json_option(function: F) -> F:
    """--json, on whatever lists or shows."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
