"""The stages of a render, as rows: a family lists its own in order. Plain data: importable without MLX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["LTXV_STAGES", "Stage"]


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


LTXV_STAGES = (
    Stage(name="text", label="encoding the prompt", counts="text", of=lambda request: len(request.texts)),
    Stage(name="denoise", label="denoising", counts="step", of=_count_steps),
    Stage(name="decode", label="decoding", counts="frame", of=lambda request: request.num_frames, hands_over=True),
)
"""The stages of LTX-Video 0.9.x, in order."""
