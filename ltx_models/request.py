"""Describe a video to render, and check every constraint on it. Plain data: importable without MLX.

A field that is None takes the variant's own value (`GenerationRequest.resolve`), so the same request means the right
thing for every variant. Sides, frames and guidance are limited by the variant's family: a value that no known family
takes is refused at once, one that the variant's does not take when the request is resolved.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import secrets
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeGuard, TypeVar, get_args

from ltx_models.errors import InvalidRequest
from ltx_models.families.family import Limits
from ltx_models.families.variants import Variant, known_families
from ltx_models.files.urls import check_is_no_url
from ltx_models.schedulers import shorten_timesteps

__all__ = [
    "LAST_FRAME",
    "TEXT_NAMES",
    "ConditioningItem",
    "GenerationRequest",
    "Guidance",
    "Perturbing",
    "draw_seed",
    "limits_lifted",
    "refusals_of",
]

MAX_PROMPT_CHARACTERS = 4_000
CHARACTERS_A_TOKEN = 4
UNPRINTED = ("Cc", "Cs")
"""Unicode categories that texts must not contain: control characters, which could change the terminal of a person who
lists the farm's jobs, and lone surrogates, which cannot be stored as UTF-8.
"""
BLANKS = "\n\r\t"
MAX_STEPS = 1_000
MAX_FRAME_RATE = 120
MAX_GUIDANCE = 30
MAX_BLOCKS = 1_000
MAX_GUIDANCE_TIMESTEPS = 100
MAX_CONDITIONING_ITEMS = 16
MAX_SOURCE_CHARACTERS = 4_096
MAX_SEED = 2**63 - 1
ENOUGH = 2**31 - 1
"""More than any version's limit."""
NO_LIMITS = Limits(size_stride=1, max_size=ENOUGH, frame_stride=1, max_frames=ENOUGH, text_tokens=ENOUGH)

LAST_FRAME = -1
"""The frame number that stands for the video's last frame, however long the video is."""
MAX_CLIP_SECONDS = 1_000_000

Perturbing = Literal["attention_values", "attention_skip", "transformer_block", "residual"]
"""What spatio-temporal guidance does to a perturbed block: self-attention returns its values, or its input; the block
returns its input; or nothing is changed ("residual", as in the official code). A family knows some of them.
"""

TEXT_NAMES = ("prompt", "negative prompt")
"""Names of a request's texts, in the order of `GenerationRequest.texts`."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ConditioningItem:
    """A picture or a clip that the video is to contain.

    Attributes:
        kind: "image" or "video".
        source: The file's path; a farm replaces it by a content address, `sha256:…`.
        frame: The frame of the video at which the picture, or the clip's first frame, belongs; LAST_FRAME for a picture
            at the end. A clip begins at a multiple of the family's frame stride.
        strength: How much of the noise it replaces, above 0, to 1; at 1 it is kept unchanged.
        crop: Cut it to the video's aspect ratio around the centre; otherwise it is stretched.
        blur: Blur it slightly. The model was trained on frames of videos and expects this of a picture.
        compress: Encode and decode it with H.264 once, for the same reason.
        start: The second of the clip from which it is read. Without `start` and `stop`, a clip at frame 0 is continued
            from its end, and a later one is shown from its beginning (`ltx_models.media.spans`).
        stop: The second at which reading ends; by default, after as many frames as the video continues from.
    """

    kind: Literal["image", "video"]
    source: str
    frame: int = 0
    strength: float = 1.0
    crop: bool = True
    blur: bool = True
    compress: bool = True
    start: float | None = None
    stop: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("image", "video"):
            raise InvalidRequest(f"the kind of conditioning {self.kind!r} is unknown; image and video are known")
        if not isinstance(self.source, str) or not self.source.strip() or "\x00" in self.source:
            raise InvalidRequest(
                f"the source of {'an' if self.kind == 'image' else 'a'} {self.kind} is empty; name a file"
            )
        check_is_no_url(self.kind, self.source)
        if len(self.source) > _limit(MAX_SOURCE_CHARACTERS):
            raise InvalidRequest(
                f"the name of an {self.kind}'s file has more than {MAX_SOURCE_CHARACTERS:,} characters"
            )
        _for_any_family(self.check_limits)
        _check_number("conditioning strength", self.strength, 0, 1, above=True)
        for name in ("crop", "blur", "compress"):
            _check_switch(name, getattr(self, name))
        self._check_part()

    def check_limits(self, limits: Limits) -> None:
        """Raise InvalidRequest unless videos of a family have such a frame, and a clip may begin there."""
        _check_whole("conditioning frame", self.frame, LAST_FRAME, limits.max_frames - 1)
        stride = limits.frame_stride
        if self.kind == "video" and self.frame % stride:
            below = max(0, self.frame - self.frame % stride)
            raise InvalidRequest(
                f"a clip at frame {self.frame} does not begin at a multiple of {stride}; {below} or"
                f" {below + stride} would"
            )

    def _check_part(self) -> None:
        _check_number("start of a clip", self.start, 0, _limit(MAX_CLIP_SECONDS))
        _check_number("end of a part of a clip", self.stop, 0, _limit(MAX_CLIP_SECONDS))
        if self.kind == "image" and (self.start is not None or self.stop is not None):
            raise InvalidRequest("an image has no part in seconds; give one for a clip only")
        if self.stop is not None and self.stop <= (self.start or 0):
            raise InvalidRequest(
                f"the part {self.start or 0:g}–{self.stop:g} s of a clip ends before it begins; give the earlier second"
                " first"
            )

    def resolve(self, num_frames: int) -> ConditioningItem:
        """Return this item for a video of `num_frames` frames: LAST_FRAME is replaced by a number."""
        return dataclasses.replace(self, frame=num_frames - 1) if self.frame == LAST_FRAME else self

    def check_fits(self, num_frames: int, limits: Limits) -> None:
        """Raise InvalidRequest unless a family's video of `num_frames` frames has room for this item."""
        needed = limits.shortest_clip if self.kind == "video" else 1
        if self.frame + needed > num_frames:
            raise InvalidRequest(
                f"{'an image' if self.kind == 'image' else 'a clip'} at frame {self.frame} needs"
                f" {self.frame + needed} frames at least; the video has {num_frames}"
            )


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The scales by which the predictions of one step are combined.

    Attributes:
        scale: The scale of classifier-free guidance; 1 is off.
        stg_scale: The scale of spatio-temporal guidance; 0 is off.
        rescale: How far to rescale towards the conditional prediction's standard deviation; 1 is off.
        stg_blocks: The blocks that spatio-temporal guidance perturbs.
    """

    scale: float
    stg_scale: float
    rescale: float
    stg_blocks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A video to render.

    Construction raises InvalidRequest, whose one sentence names the value, the rule, and the nearest valid values.

    Attributes:
        prompt: Text, at most 4,000 characters; the first tokens of it are read, as many as the family's limits say.
        negative_prompt: Text, likewise.
        width: Pixels, a multiple of the family's stride, to its largest size.
        height: Pixels, likewise.
        num_frames: One more than a multiple of the family's stride, to its largest number.
        frame_rate: Frames a second, above 0, to 120.
        num_steps: 1 to 1,000.
        timesteps: The schedule itself, falling values in (0, 1], in place of num_steps.
        skip_first_steps: The number of steps that are left out at the schedule's beginning.
        skip_last_steps: The number of steps that are left out at its end.
        stochastic: Draw fresh noise after each step, for a model that was distilled for that.
        guidance_scale: The scale of classifier-free guidance, 1 (off) to 30.
        cfg_star: First scale the unconditional prediction so that it is the conditional one's projection (CFG-Zero*).
        stg_scale: The scale of spatio-temporal guidance, 0 (off) to 30.
        stg_blocks: The blocks that it perturbs, counted from 0.
        stg_mode: What it does to them (`Perturbing`).
        rescale: How far the guided prediction is pulled back to the conditional one's standard deviation, 0 to 1; both
            0 and 1 are off.
        guidance_timesteps: Falling values in (0, 1] at which guidance_scale, stg_scale, rescale and stg_blocks change.
            Each of these may be a tuple of as many values (of tuples, for stg_blocks): a step takes those of the first
            guidance timestep that is not above its own, or the last.
        decode_timestep: The timestep that a decoder with timestep conditioning is given, 0 to 1.
        decode_noise_scale: How much noise is mixed into the latents for such a decoder, 0 to 1.
        conditioning: At most 16 pictures and clips that the video is to contain.
        image_noise_scale: Noise, 0 to 1, that is added to latents that are kept unchanged, less from step to step; it
            helps motion.
        seed: 0 to 2**63 - 1.
    """

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    frame_rate: float | None = None
    num_steps: int | None = None
    timesteps: tuple[float, ...] | None = None
    skip_first_steps: int | None = None
    skip_last_steps: int | None = None
    stochastic: bool | None = None
    guidance_scale: float | tuple[float, ...] | None = None
    cfg_star: bool | None = None
    stg_scale: float | tuple[float, ...] | None = None
    stg_blocks: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None
    stg_mode: Perturbing | None = None
    rescale: float | tuple[float, ...] | None = None
    guidance_timesteps: tuple[float, ...] | None = None
    decode_timestep: float | None = None
    decode_noise_scale: float | None = None
    conditioning: tuple[ConditioningItem, ...] = ()
    image_noise_scale: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        if not self.prompt.strip():
            raise InvalidRequest("the prompt is empty; describe the video in a sentence")
        if self.negative_prompt is not None:
            _check_text("negative prompt", self.negative_prompt)
        _for_any_family(self._check_size)
        _check_whole("steps", self.num_steps, 1, _limit(MAX_STEPS))
        _check_whole("seed", self.seed, 0, MAX_SEED)
        _check_number("frame rate", self.frame_rate, 0, _limit(MAX_FRAME_RATE), above=True)
        _check_number("decode timestep", self.decode_timestep, 0, 1)
        _check_number("decode noise scale", self.decode_noise_scale, 0, 1)
        _check_number("image noise scale", self.image_noise_scale, 0, 1)
        _check_switch("stochastic", self.stochastic)
        _check_switch("cfg_star", self.cfg_star)
        if self.timesteps is not None:
            _check_timesteps("timesteps", self.timesteps, _limit(MAX_STEPS))
            if self.num_steps is not None and self.num_steps != len(self.timesteps):
                raise InvalidRequest(
                    f"{self.num_steps} steps and {len(self.timesteps)} timesteps were given; give one of the two"
                )
        self._check_skipped_steps()
        self._check_guidance()
        if len(self.conditioning) > _limit(MAX_CONDITIONING_ITEMS):
            raise InvalidRequest(
                f"{len(self.conditioning)} pictures and clips were given; at most {MAX_CONDITIONING_ITEMS} are possible"
            )
        _for_any_family(self._check_room)

    def _check_size(self, limits: Limits) -> None:
        stride, most = limits.size_stride, limits.max_size
        _check_stepped("width", self.width, stride, 0, most, f"a multiple of {stride}")
        _check_stepped("height", self.height, stride, 0, most, f"a multiple of {stride}")
        _check_stepped("frames", self.num_frames, limits.frame_stride, 1, limits.max_frames, limits.frame_rule)

    def _check_skipped_steps(self) -> None:
        _check_whole("skipped first steps", self.skip_first_steps, 0, _limit(MAX_STEPS) - 1)
        _check_whole("skipped last steps", self.skip_last_steps, 0, _limit(MAX_STEPS) - 1)
        skipped = (self.skip_first_steps or 0) + (self.skip_last_steps or 0)
        if self.num_steps is not None and skipped >= self.num_steps:
            raise InvalidRequest(f"{skipped} of {self.num_steps} steps are skipped; one must remain")

    def _check_guidance(self) -> None:
        if self.stg_mode is not None and self.stg_mode not in get_args(Perturbing):
            raise InvalidRequest(f"stg_mode {self.stg_mode!r} is unknown; {', '.join(get_args(Perturbing))} are known")
        if self.guidance_timesteps:
            _check_timesteps("guidance timesteps", self.guidance_timesteps, _limit(MAX_GUIDANCE_TIMESTEPS))
        _check_numbers("guidance", self.guidance_scale, 1, _limit(MAX_GUIDANCE))
        _check_numbers("stg_scale", self.stg_scale, 0, _limit(MAX_GUIDANCE))
        _check_numbers("rescale", self.rescale, 0, 1)
        if self.stg_blocks is not None:
            _check_blocks(self.stg_blocks)
        if self.guidance_timesteps is None:
            return
        for name in ("guidance_scale", "stg_scale", "rescale", "stg_blocks"):
            values = getattr(self, name)
            varies = _is_nested(values) if name == "stg_blocks" else isinstance(values, tuple)
            if varies and len(values) != len(self.guidance_timesteps):
                raise InvalidRequest(
                    f"{name} has {len(values)} values and there are {len(self.guidance_timesteps)} guidance timesteps;"
                    " give one value, or as many as there are timesteps"
                )

    def _check_room(self, limits: Limits) -> None:
        if self.num_frames is not None:
            for item in self.conditioning:
                item.check_fits(self.num_frames, limits)

    def check_limits(self, limits: Limits) -> None:
        """Raise InvalidRequest unless a family makes videos of this size and length, with such pictures and clips."""
        self._check_size(limits)
        for item in self.conditioning:
            item.check_limits(limits)
        self._check_room(limits)

    def _check_limits(self, variant: Variant) -> None:
        """Raise InvalidRequest unless a resolved request is within the limits of the variant's family."""
        limits = variant.family.limits
        self.check_limits(limits)
        scales = self.stg_scale if isinstance(self.stg_scale, tuple) else (self.stg_scale or 0,)
        if max(scales) > 0 and self.stg_mode not in limits.perturbing:
            known = f"{', '.join(limits.perturbing)} are known" if limits.perturbing else "it has no such guidance"
            raise InvalidRequest(f"stg_mode {self.stg_mode!r} is unknown to {variant.family.title}; {known}")

    def resolve(self, variant: Variant) -> GenerationRequest:
        """Return this request with every None replaced: by the variant's value, and a missing seed by a random one.

        A variant that was distilled for certain timesteps takes as many of them as there are steps.

        Raises:
            InvalidRequest: There are more steps than the variant was distilled for, values contradict each other, or
                the variant's family makes no such video.
        """
        defaults = variant.defaults()
        if self.timesteps is not None:
            defaults["num_steps"] = len(self.timesteps)
        elif variant.timesteps:
            defaults["timesteps"] = shorten_timesteps(variant.timesteps, self.num_steps or len(variant.timesteps))
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        if self.seed is None:
            missing["seed"] = draw_seed()
        num_frames: int = self.num_frames or defaults["num_frames"]
        missing["conditioning"] = tuple(item.resolve(num_frames) for item in self.conditioning)
        resolved = dataclasses.replace(self, **missing)
        resolved._check_limits(variant)
        return resolved

    @property
    def uses_negative_prompt(self) -> bool:
        """Whether classifier-free guidance is on at any step; the request is resolved."""
        scale = self.guidance_scale
        assert scale is not None
        return max(scale if isinstance(scale, tuple) else (scale,)) > 1

    @property
    def texts(self) -> list[str]:
        """The texts that are encoded, the prompt first; the request is resolved."""
        negative = self.negative_prompt if self.uses_negative_prompt else None
        return [self.prompt] if negative is None else [self.prompt, negative]

    def guidance_at(self, timestep: float) -> Guidance:
        """Return the guidance of a step at `timestep`; the request is resolved."""
        stages = self.guidance_timesteps or ()
        index = next((index for index, stage in enumerate(stages) if stage <= timestep), len(stages) - 1)

        def at(values: T | tuple[T, ...] | None) -> T:
            assert values is not None
            return values[index] if isinstance(values, tuple) else values

        blocks = self.stg_blocks
        assert blocks is not None
        return Guidance(
            scale=at(self.guidance_scale),
            stg_scale=at(self.stg_scale),
            rescale=at(self.rescale),
            stg_blocks=blocks[index] if _is_nested(blocks) else blocks,  # type: ignore[arg-type]
        )


def draw_seed() -> int:
    """Return a random seed, short enough to be read aloud: 0 to 2**32 - 1."""
    return secrets.randbelow(2**32)


_asked: ContextVar[Limits | None] = ContextVar("asked", default=None)


@contextmanager
def refusals_of(variant: Variant) -> Iterator[None]:
    """Have requests that are made inside refused in the words of a variant's family, where any family's are needed."""
    token = _asked.set(variant.family.limits)
    try:
        yield
    finally:
        _asked.reset(token)


_lifted: ContextVar[bool] = ContextVar("lifted", default=False)


@contextmanager
def limits_lifted() -> Iterator[None]:
    """Have requests that are made inside refused only for what no version and no family could take.

    They are of newer versions, with limits of their own, and are shown and never rendered.
    """
    token = _lifted.set(True)
    try:
        yield
    finally:
        _lifted.reset(token)


def _limit(most: int) -> int:
    """Return a limit of this version; within `limits_lifted`, one that is above every version's."""
    return ENOUGH if _lifted.get() else most


def _for_any_family(check: Callable[[Limits], None]) -> None:
    """Call `check` with the limits of each family until one passes. Raise the first one's InvalidRequest if none does.

    The first are those of `refusals_of`. The families of installed distributions are looked for only where the table's
    own refuse.
    """
    if _lifted.get():
        return check(NO_LIMITS)
    first: InvalidRequest | None = None
    asked = _asked.get()
    for limits in itertools.chain([asked] if asked else [], (family.limits for family in known_families())):
        try:
            return check(limits)
        except InvalidRequest as error:
            first = first or error
    assert first is not None
    raise first


def _check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise InvalidRequest(f"the {name} is not text")
    if len(value) > _limit(MAX_PROMPT_CHARACTERS):
        tokens = next(known_families()).limits.text_tokens
        about = round(CHARACTERS_A_TOKEN * tokens, -3)
        raise InvalidRequest(
            f"the {name} has {len(value):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are allowed, and the"
            f" text encoder reads only the first {tokens} tokens (about {about:,} characters)"
        )
    if unprinted := next(
        (char for char in value if unicodedata.category(char) in UNPRINTED and char not in BLANKS), ""
    ):
        raise InvalidRequest(f"the {name} holds U+{ord(unprinted):04X}, which is not text; remove it")


def _check_whole(name: str, value: int | None, low: int, high: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} {value!r} is not a whole number")
    if not low <= value <= high:
        raise InvalidRequest(f"{name} {value} is out of range; {low:,} to {high:,} are possible")


def _check_stepped(name: str, value: int | None, stride: int, offset: int, high: int, rule: str) -> None:
    """Raise InvalidRequest unless `value` is a positive multiple of `stride` plus `offset`, at most `high`."""
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


def _check_numbers(name: str, values: float | tuple[float, ...] | None, low: float, high: float) -> None:
    """Check one value, or one for each guidance timestep."""
    if values == ():
        raise InvalidRequest(f"{name} has no values; give one, or one for each guidance timestep")
    for value in values if isinstance(values, tuple) else (values,):
        _check_number(name, value, low, high)


def _check_switch(name: str, value: bool | None) -> None:
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} {value!r} is neither true nor false")


def _check_blocks(blocks: tuple[int, ...] | tuple[tuple[int, ...], ...]) -> None:
    lists: tuple[object, ...] = blocks if _is_nested(blocks) else (blocks,)
    for indices in lists:
        if not isinstance(indices, tuple) or len(indices) > _limit(MAX_BLOCKS):
            raise InvalidRequest(f"stg_blocks {indices!r} is not a tuple of blocks")
        for index in indices:
            _check_whole("stg_blocks", index, 0, _limit(MAX_BLOCKS) - 1)


def _is_nested(blocks: object) -> TypeGuard[tuple[tuple[int, ...], ...]]:
    """Return whether blocks are given for each guidance timestep, rather than once for all."""
    return isinstance(blocks, tuple) and any(isinstance(item, tuple) for item in blocks)


def _check_timesteps(name: str, timesteps: tuple[float, ...], most: int) -> None:
    if not timesteps or len(timesteps) > most:
        raise InvalidRequest(f"{len(timesteps)} {name} were given; 1 to {most:,} are possible")
    for value in timesteps:
        _check_number(name, value, 0, 1, above=True)
    if any(later >= earlier for earlier, later in itertools.pairwise(timesteps)):
        raise InvalidRequest(f"the {name} are invalid: they must fall, each below the one before it")
