"""What a person may ask for, and every constraint on it. Plain data: importable without MLX.

A field that is None takes the variant's own value (`GenerationRequest.resolve`), so the same request
means the right thing for every variant.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltx_models.errors import InvalidRequest

if TYPE_CHECKING:
    from ltx_models.variants import Variant

__all__ = [
    "FRAME_STRIDE",
    "SIZE_STRIDE",
    "GenerationRequest",
    "draw_seed",
]

SIZE_STRIDE = 32
"""Pixels of one latent column or row: the VAE's spatial compression."""
FRAME_STRIDE = 8
"""Frames of one latent frame after the first: the VAE's temporal compression."""

MAX_PROMPT_CHARACTERS = 4_000
MAX_SIZE = 2_048
MAX_FRAMES = 513
MAX_STEPS = 1_000
MAX_FRAME_RATE = 120
MAX_GUIDANCE = 30
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One video to render.

    prompt, negative_prompt: text, at most 4,000 characters (the text encoder reads the first 256 tokens).
    width, height: pixels, multiples of 32, 32 to 2,048.
    num_frames: 8n+1, 1 to 513.  frame_rate: frames a second, above 0, to 120.
    num_steps: 1 to 1,000.  timesteps: the schedule itself, falling values in (0, 1], in place of num_steps.
    guidance_scale: classifier-free guidance, 1 (off) to 30.
    decode_timestep, decode_noise_scale: in [0, 1], for a VAE that is conditioned on a timestep.
    seed: 0 to 2**63 - 1.

    Raises InvalidRequest, whose one sentence names the value, the rule, and the nearest valid values.
    """

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    frame_rate: float | None = None
    num_steps: int | None = None
    timesteps: tuple[float, ...] | None = None
    guidance_scale: float | None = None
    decode_timestep: float | None = None
    decode_noise_scale: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        if not self.prompt.strip():
            raise InvalidRequest("the prompt is empty; describe the video in a sentence")
        if self.negative_prompt is not None:
            _check_text("negative prompt", self.negative_prompt)
        _check_stepped("width", self.width, SIZE_STRIDE, 0, MAX_SIZE, f"a multiple of {SIZE_STRIDE}")
        _check_stepped("height", self.height, SIZE_STRIDE, 0, MAX_SIZE, f"a multiple of {SIZE_STRIDE}")
        _check_stepped("frames", self.num_frames, FRAME_STRIDE, 1, MAX_FRAMES, "8n+1")
        _check_whole("steps", self.num_steps, 1, MAX_STEPS)
        _check_whole("seed", self.seed, 0, MAX_SEED)
        _check_number("frame rate", self.frame_rate, 0, MAX_FRAME_RATE, above=True)
        _check_number("guidance", self.guidance_scale, 1, MAX_GUIDANCE)
        _check_number("decode timestep", self.decode_timestep, 0, 1)
        _check_number("decode noise scale", self.decode_noise_scale, 0, 1)
        if self.timesteps is not None:
            _check_timesteps(self.timesteps, self.num_steps)

    def resolve(self, variant: Variant) -> GenerationRequest:
        """This request with every None replaced: by the variant's value, a missing seed by a drawn one."""
        defaults = variant.defaults()
        if self.timesteps is not None:
            defaults["num_steps"] = len(self.timesteps)
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        if self.seed is None:
            missing["seed"] = draw_seed()
        return dataclasses.replace(self, **missing)


def draw_seed() -> int:
    """A random seed, short enough to be read aloud: 0 to 2**32 - 1."""
    return secrets.randbelow(2**32)


def _check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise InvalidRequest(f"the {name} is not text")
    if len(value) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(
            f"the {name} has {len(value):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are allowed, and the"
            " text encoder reads only the first 256 tokens (about 1,000 characters)"
        )
    if "\x00" in value:
        raise InvalidRequest(f"the {name} holds a NUL character; remove it")


def _check_whole(name: str, value: int | None, low: int, high: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} {value!r} is not a whole number")
    if not low <= value <= high:
        raise InvalidRequest(f"{name} {value} is out of range; {low:,} to {high:,} are possible")


def _check_stepped(name: str, value: int | None, stride: int, offset: int, high: int, rule: str) -> None:
    """`value` must be a multiple of `stride` plus `offset`, at least one such, at most `high`."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} {value!r} is not a whole number")
    low = offset or stride
    if not low <= value <= high:
        raise InvalidRequest(f"{name} {value} is out of range; {low} to {high} in steps of {stride} are possible")
    if (value - offset) % stride:
        below = value - (value - offset) % stride
        raise InvalidRequest(f"{name} {value} is not {rule}; {below} or {below + stride} would be")


def _check_number(name: str, value: float | None, low: float, high: float, *, above: bool = False) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InvalidRequest(f"{name} {value!r} is not a number")
    if value > high or value < low or (above and value == low):
        raise InvalidRequest(
            f"{name} {value:g} is out of range; {'above ' if above else ''}{low:g} to {high:g} are possible"
        )


def _check_timesteps(timesteps: tuple[float, ...], num_steps: int | None) -> None:
    if not timesteps or len(timesteps) > MAX_STEPS:
        raise InvalidRequest(f"{len(timesteps)} timesteps were given; 1 to {MAX_STEPS:,} are possible")
    for value in timesteps:
        _check_number("timestep", value, 0, 1, above=True)
    if any(later >= earlier for earlier, later in itertools.pairwise(timesteps)):
        raise InvalidRequest("the timesteps do not fall; each must be below the one before it")
    if num_steps is not None and num_steps != len(timesteps):
        raise InvalidRequest(f"{num_steps} steps and {len(timesteps)} timesteps were given; give one of the two")
