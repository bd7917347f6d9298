"""The stages of a render, as rows: a family lists its own in order. Plain data: importable without MLX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DECODE", "DENOISE", "LTXV_STAGES", "STEP", "TEXT", "Stage", "count_steps"]

STEP = "step"
"""What the stages count whose work is told in steps, all together, as `--steps` says it."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a render. Bars, times left, strikes, lost steps and metrics follow from the rows of a family.

    Attributes:
        name: What events and resume points call it: lower-case letters, digits and underscores.
        label: What a person reads while it lasts.
        counts: What its progress counts, in the singular: "text", "step", "frame". Steps that are done twice after
            a machine has failed are told as lost.
        of: Returns how many of them a resolved `GenerationRequest` takes, or None where that is unknown before.
        hands_over: Whether the next job may be claimed, and its texts encoded, while this stage and those after it
            last.
    """

    name: str
    label: str
    counts: str
    of: Callable[[Any], int | None] = lambda _request: None
    hands_over: bool = False


def _count_steps(request: Any) -> int | None:
    steps: int | None = len(request.timesteps) if request.timesteps else request.num_steps
    if steps is None:
        return None
    return max(0, steps - (request.skip_first_steps or 0) - (request.skip_last_steps or 0))


TEXT = Stage(name="text", label="encoding the prompt", counts="text", of=lambda request: len(request.texts))
DENOISE = Stage(name="denoise", label="denoising", counts=STEP, of=_count_steps)
DECODE = Stage(name="decode", label="decoding", counts="frame", of=lambda request: request.num_frames, hands_over=True)
LTXV_STAGES = (TEXT, DENOISE, DECODE)
"""The stages of LTX-Video 0.9.x, in order."""


def count_steps(stages: Sequence[Stage], request: Any, before: str | None = None) -> int:
    """Return how many steps a resolved `GenerationRequest` takes in all stages, or in those before one of that name."""
    names = [stage.name for stage in stages]
    counted = stages[: names.index(before)] if before in names else stages
    return sum(stage.of(request) or 0 for stage in counted if stage.counts == STEP)
