"""Rectified flow: choose the timesteps of a render, and compute the step between two of them.

Time runs from 1 (pure noise) to 0 (the video): x_t = (1 - t)·x0 + t·noise, and the model predicts the velocity v =
noise - x0. The formulas are those of LTX-Video's `RectifiedFlowScheduler`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltx_models.errors import CheckpointError, InvalidRequest

if TYPE_CHECKING:
    import mlx.core as mx

__all__ = ["SchedulerConfig", "euler_step", "predict_x0", "sample_timesteps", "shorten_timesteps", "stochastic_step"]

LINEAR_QUADRATIC_THRESHOLD = 0.025
"""The noise that the linear half of LinearQuadratic removes."""
SHIFT_TOKENS = (1024, 4096)
SHIFT_VALUES = (0.95, 2.05)
"""SD3's resolution shift is the line through (1024 tokens, 0.95) and (4096, 2.05), not clamped."""


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """The `scheduler` section of a checkpoint's config.

    Attributes:
        sampler: "Uniform" or "LinearQuadratic".
        shifting: "SD3", or None for no shift of the timesteps.
        target_shift_terminal: The last timestep after the shift; None leaves it.
    """

    sampler: str = "Uniform"
    shifting: str | None = None
    target_shift_terminal: float | None = None

    def __post_init__(self) -> None:
        if self.sampler not in _SAMPLERS:
            raise CheckpointError(
                f"the sampler {reprlib.repr(self.sampler)} is not supported; {', '.join(_SAMPLERS)} are"
            )
        if self.shifting not in (None, "SD3"):
            raise CheckpointError(
                f"the timestep shift {reprlib.repr(self.shifting)} is not supported; 'SD3' or none is"
            )


def sample_timesteps(config: SchedulerConfig, num_steps: int, num_tokens: int) -> tuple[float, ...]:
    """Return the falling timesteps of a render of `num_tokens` latent tokens; the first is 1."""
    timesteps = _SAMPLERS[config.sampler](num_steps)
    if config.shifting == "SD3":
        timesteps = [_sd3_shift(t, num_tokens) for t in timesteps]
        if config.target_shift_terminal is not None:
            timesteps = _stretch_to_terminal(timesteps, config.target_shift_terminal)
    return tuple(timesteps)


def shorten_timesteps(distilled: Sequence[float], num_steps: int) -> tuple[float, ...]:
    """Return `num_steps` of a distilled model's timesteps, evenly spread, the first and the last included.

    One more step than there are timesteps gives the LinearQuadratic schedule, which is the distilled one with one more
    timestep at its end.

    Raises:
        InvalidRequest: There are even more steps; the model was not trained for their timesteps.
    """
    if num_steps > len(distilled) + 1:
        raise InvalidRequest(
            f"{num_steps} steps are more than this variant was distilled for: it knows {len(distilled)} timesteps, and"
            f" 1 to {len(distilled) + 1} steps are possible; more would not make it better"
        )
    if num_steps == len(distilled) + 1:
        return tuple(_linear_quadratic(num_steps))
    if num_steps == 1:
        return (distilled[0],)
    last = len(distilled) - 1
    return tuple(distilled[math.floor(index * last / (num_steps - 1) + 0.5)] for index in range(num_steps))


def euler_step(latents: mx.array, velocity: mx.array, timestep: float, next_timestep: float) -> mx.array:
    """Return x at `next_timestep`: x - (t - t')·v."""
    return latents - (timestep - next_timestep) * velocity


def stochastic_step(x0: mx.array, noise: mx.array, next_timestep: float) -> mx.array:
    """Return x at `next_timestep`, with fresh noise on the predicted video: (1 - t')·x0 + t'·noise."""
    return (1 - next_timestep) * x0 + next_timestep * noise


def predict_x0(latents: mx.array, velocity: mx.array, timestep: float | mx.array) -> mx.array:
    """Return the predicted video: x - t·v."""
    return latents - timestep * velocity


def _uniform(n: int) -> list[float]:
    return [1 - i / n for i in range(n)]


def _linear_quadratic(n: int) -> list[float]:
    """Return linear steps down to the threshold, then a parabola that continues them smoothly.

    Source: Movie Gen (Polyak et al., 2024), section 3.4.2.
    """
    if n == 1:
        return [1.0]
    linear_steps = n // 2
    quadratic_steps = n - linear_steps
    slope = LINEAR_QUADRATIC_THRESHOLD / linear_steps
    excess = linear_steps - LINEAR_QUADRATIC_THRESHOLD * n
    q = excess / (linear_steps * quadratic_steps**2)
    linear = slope - 2 * excess / quadratic_steps**2
    sigmas = [slope * i for i in range(linear_steps)]
    sigmas += [q * i**2 + linear * i + q * linear_steps**2 for i in range(linear_steps, n)]
    return [1 - sigma for sigma in sigmas]


def _sd3_shift(t: float, num_tokens: int) -> float:
    """Return e^μ / (e^μ + 1/t - 1) (SD3, Esser et al., 2024).

    More tokens hide noise better, so more of the time is spent at high noise.
    """
    (low_tokens, high_tokens), (low, high) = SHIFT_TOKENS, SHIFT_VALUES
    mu = low + (high - low) * (num_tokens - low_tokens) / (high_tokens - low_tokens)
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1))


def _stretch_to_terminal(timesteps: list[float], terminal: float) -> list[float]:
    """Scale 1 - t so that the last timestep is `terminal`."""
    if len(timesteps) == 1:  # 1 - t is 0, which no scale stretches
        return timesteps
    scale = (1 - terminal) / (1 - timesteps[-1])
    return [1 - (1 - t) * scale for t in timesteps]


_SAMPLERS = {"Uniform": _uniform, "LinearQuadratic": _linear_quadratic}
