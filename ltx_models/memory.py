"""Predict what a render needs, and read how much memory this machine has.

This is arithmetic without MLX, so that a client can sort a job into its memory class. GB is 10**9 bytes everywhere. A
phase of a render needs the weights that are resident and its own working memory; the constants below are ratios
measured by MLX's own counter of its peak, on one H100 with MLX 0.32 (see the README's table). A peak includes the cache
of freed buffers that MLX is allowed to keep.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltx_models.errors import InvalidRequest
from ltx_models.families.architectures import Architecture
from ltx_models.request import FRAME_STRIDE, SIZE_STRIDE, GenerationRequest

if TYPE_CHECKING:
    from ltx_models.families.variants import Variant

__all__ = [
    "GB",
    "MEMORY_CLASSES",
    "DecodePlan",
    "LatentSize",
    "budget",
    "cache_limit",
    "check_fits",
    "component_weights",
    "decode_plans",
    "decode_working",
    "evictions",
    "latent_size",
    "machine_memory",
    "memory_class",
    "phase_peaks",
    "phase_working",
    "predict_peak",
    "smallest_class",
    "smallest_peak",
]

GB = 10**9
MEMORY_CLASSES = (1, 4, 8, 12, 16, 25, 36, 64, 128)
"""The classes of job sizes, in GB: a worker consumes the classes within its budget."""
LARGEST_SHOWN = 10**18
"""The largest number of bytes that an error names: a whole number may be larger than any float."""
USABLE_PART = 0.75
"""The fraction of a machine's memory that renders may use."""
MAX_CACHE = GB // 2
PROCESS_BYTES = 60_000_000
"""Bytes of arrays that belong to no model: copies of latents, and a frame or a preview that is being handed over."""
READING_BYTES = 300_000_000
"""Bytes that reading one picture or clip takes at most, whatever its content, in addition to a clip's frames at the
video's size (`ltx_models.media`); what would take more is refused.
"""

COMPONENTS = ("text_encoder", "vae_encoder", "vae", "transformer")
"""The models of a render, in the order in which they are unloaded to make room for another."""
PHASES = ("vae_encoder", "text_encoder", "transformer", "vae")
"""The same models in the order in which a render uses them."""

TEXT_TOKENS = 256
TEXT_ACTIVATIONS = 17
"""Working memory of one layer of the text encoder, in units of its activations, (tokens, width)."""
TEXT_LAYERS_IN_FLIGHT = 2
"""Layers of the text encoder that are queued at once."""
TRANSFORMER_ACTIVATIONS = 45
"""Working memory of the parts of a transformer that are queued at once, in units of its activations, (batch, tokens,
width).
"""
BLOCK_ACTIVATIONS = 39
"""Working memory of one block, in the same units."""
PER_TOKEN_ACTIVATIONS = 18
"""Working memory that a timestep for each token adds, in the same units; conditioning needs it."""
WIDENED_BLOCKS = 1.75
"""Blocks of fp8 weights that are in full precision at once; also of quantized weights, where they are widened."""
CONVOLUTION_ACTIVATIONS = 11
"""Arrays of its chunk's size that a layer of the VAE makes: 9 measured on CUDA, and two more for Metal, which has the
results of a convolution's three frames at once; that has not been measured yet (`ltx bench model --memory`).
"""
LARGEST_ENCODER_BLOCK = 0.65
"""The fraction of the VAE encoder's parameters in its largest block, which is in memory twice while it is loaded."""
PRODUCT_ACTIVATIONS = 36
"""The same number where a convolution is computed as a matrix product for each kernel position, several of them queued.
"""

PACE_BYTES = 20_000_000
"""Bytes of a transformer's activations that are queued before earlier ones are waited for (`ltx_models.layers.pacing`).
"""
CHUNKS = tuple(size * 1_000_000 for size in (128, 64, 32, 16))
TILES = (32, 24, 16, 12)
TILE_OVERLAP = 8
"""The least overlap of neighbouring tiles of a decode, in latents."""
PATCH = 4
RGB = 3


@dataclass(frozen=True)
class LatentSize:
    """The size of a video's latents: frames, rows and columns."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """The number of tokens that the transformer sees."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class DecodePlan:
    """The sizes of the pieces in which a video is decoded.

    Attributes:
        chunk_bytes: The approximate size of the largest array that the decoder makes.
        tile: Rows and columns of latents that are decoded at once; None for all of them.
    """

    chunk_bytes: int
    tile: int | None = None


SMALLEST_PLAN = DecodePlan(CHUNKS[-1])
"""The plan that needs the least memory without tiles."""


def machine_memory() -> int:
    """Return this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def latent_size(request: GenerationRequest) -> LatentSize:
    """Return the latent size of a resolved request."""
    assert request.width and request.height and request.num_frames
    frames = (request.num_frames - 1) // FRAME_STRIDE + 1
    return LatentSize(frames, request.height // SIZE_STRIDE, request.width // SIZE_STRIDE)


def component_weights(variant: Variant) -> dict[str, int]:
    """Return the bytes that each model's weights take in memory, by the model's name in COMPONENTS."""
    model = variant.architecture
    matrices = model.layers * 16 * model.width**2
    around = model.width * (model.caption_channels + 2 * model.latent_channels + 256 + 8 * model.width)
    small = model.layers * 25 * model.width
    text_matrices = model.text_layers * model.text_width * (4 * model.text_inner + 3 * model.text_hidden)
    transformer_bytes = _bytes_of_number(model, variant.quantize_transformer or variant.checkpoint_bits)
    if not variant.quantize_transformer and variant.checkpoint_bits == 8:
        transformer_bytes = 1.0  # fp8, which has no scales
    return {
        "text_encoder": round(
            text_matrices * _bytes_of_number(model, variant.quantize_text_encoder)
            + model.vocabulary * model.text_width * model.itemsize
        ),
        "vae_encoder": model.encoder_parameters * model.itemsize,
        "vae": model.decoder_parameters * model.itemsize,
        "transformer": round(matrices * transformer_bytes + (around + small) * model.itemsize),
    }


def _bytes_of_number(model: Architecture, bits: int | None) -> float:
    """Return bytes for each number; quantized ones share a 16-bit scale and bias in groups of 64."""
    return model.itemsize if bits is None or bits >= 16 else bits / 8 + 4 / 64


def phase_working(variant: Variant, request: GenerationRequest, plan: DecodePlan | None = None) -> dict[str, int]:
    """Return the bytes that each model takes in addition to its weights while it works, by its name in COMPONENTS.

    Args:
        variant: The variant that renders.
        request: A resolved request.
        plan: The plan of the decode; None for the one with the largest chunks.
    """
    model, size = variant.architecture, latent_size(request)
    working = {
        "text_encoder": TEXT_LAYERS_IN_FLIGHT * _text_layer_working(variant),
        "transformer": _denoise_working(variant, request, size) + _preview_working(model, size),
        "vae": decode_working(model, size, plan or DecodePlan(CHUNKS[0])),
    }
    if request.conditioning:
        clips = any(item.kind == "video" for item in request.conditioning)
        shown = size if clips else dataclasses.replace(size, frames=1)
        # One after another: of each only the latents stay.
        working["vae_encoder"] = max(READING_BYTES + _pixel_bytes(shown), _encode_working(model, shown))
    return {name: round(value) + PROCESS_BYTES for name, value in working.items()}


def _text_layer_working(variant: Variant) -> int:
    """Return the working memory of a layer, with its quantized weights widened as on CUDA."""
    model = variant.architecture
    numbers = TEXT_ACTIVATIONS * TEXT_TOKENS * model.text_width
    if variant.quantize_text_encoder:
        numbers += model.text_width * (4 * model.text_inner + 3 * model.text_hidden)
    return numbers * model.itemsize


def _denoise_working(variant: Variant, request: GenerationRequest, size: LatentSize) -> float:
    model = variant.architecture
    batch = 1 + (_highest(request.guidance_scale) > 1) + (_highest(request.stg_scale) > 0)
    extra_frames = sum(1 if item.kind == "image" else 2 for item in request.conditioning if item.frame != 0)
    tokens = size.tokens + extra_frames * size.height * size.width
    activations = batch * tokens * model.width * model.itemsize
    in_flight = TRANSFORMER_ACTIVATIONS * max(activations, PACE_BYTES)
    if request.conditioning:
        in_flight += PER_TOKEN_ACTIVATIONS * activations
    in_flight = min(in_flight, (BLOCK_ACTIVATIONS + PER_TOKEN_ACTIVATIONS) * model.layers * activations)
    rope = 4 * tokens * model.width
    text = 2 * model.layers * batch * TEXT_TOKENS * model.width * model.itemsize
    scores = 0 if model.fused_attention else 2 * batch * model.heads * tokens**2 * model.itemsize
    widened = 0.0
    if variant.checkpoint_bits == 8 or variant.quantize_transformer:
        widened = WIDENED_BLOCKS * 16 * model.width**2 * model.itemsize
    return in_flight + rope + text + scores + widened


def _highest(value: float | tuple[float, ...] | None) -> float:
    if value is None:
        return 0
    return max(value, default=0) if isinstance(value, tuple) else value


def decode_working(model: Architecture, size: LatentSize, plan: DecodePlan) -> int:
    """Return the bytes that a decode takes in addition to the weights.

    They are the frames that convolutions keep of the stream, and the working memory of one layer.
    """
    height, width = (min(side, plan.tile or side) for side in (size.height, size.width))
    kept = work = 0
    frames = size.frames
    for level, (channels, blocks) in enumerate(model.decoder_levels):
        is_last = level == len(model.decoder_levels) - 1
        frame = height * width * 4**level * channels * model.itemsize
        kept += frame * (6 * blocks + (2 if is_last else 3))
        chunk = min(max(3, plan.chunk_bytes // frame), frames) + 2
        work = max(work, chunk * frame)
        if not is_last:
            frames = 2 * frames - 1
    pixels = (SIZE_STRIDE * height) * (SIZE_STRIDE * width) * RGB
    canvas = 0
    if plan.tile and (plan.tile < size.height or plan.tile < size.width):
        canvas = (FRAME_STRIDE * size.frames) * SIZE_STRIDE**2 * size.height * size.width * RGB * 2
    return kept + _arrays(model) * work + FRAME_STRIDE * 5 * pixels + canvas


def _encode_working(model: Architecture, size: LatentSize) -> int:
    """Return the working memory of the VAE's encoder; the frames are in memory twice, as read and as MLX arrays."""
    pixels = _pixel_bytes(size) // (4 * RGB)
    level = pixels // PATCH**2 * max(model.encoder_channels, PATCH**2 * RGB) * model.itemsize
    loading = round(LARGEST_ENCODER_BLOCK * model.encoder_parameters * model.itemsize)
    return max(_arrays(model) * level + 2 * _pixel_bytes(size), loading)


def _pixel_bytes(size: LatentSize) -> int:
    """Return the bytes of the frames as the encoder takes them, in float32."""
    return (FRAME_STRIDE * (size.frames - 1) + 1) * SIZE_STRIDE**2 * size.height * size.width * RGB * 4


def _preview_working(model: Architecture, size: LatentSize) -> int:
    """Return the working memory of a preview: one latent frame, decoded while the transformer works.

    Its convolutions have weights that are summed over time; the largest makes eight times the next level's channels.
    """
    frame = max(4**level * channels for level, (channels, _) in enumerate(model.decoder_levels))
    levels = itertools.pairwise(channels for channels, _ in model.decoder_levels)
    summed = 3 * 3 * max(8 * channels * following for channels, following in levels)
    return (_arrays(model) * frame * size.height * size.width + summed) * model.itemsize


def _arrays(model: Architecture) -> int:
    """Return the number of arrays of its chunk's size that a layer of the VAE makes."""
    return CONVOLUTION_ACTIVATIONS if model.fused_attention else PRODUCT_ACTIVATIONS


def decode_plans(model: Architecture, size: LatentSize, available: int) -> Iterator[DecodePlan]:
    """Yield the ways to decode by falling need of memory, from the first that needs at most `available` bytes.

    The last one is yielded in any case. The plans depend on nothing else, so the same budget gives the same video.
    """
    plans = [DecodePlan(chunk) for chunk in CHUNKS]
    plans += [DecodePlan(CHUNKS[-1], tile) for tile in TILES if tile < max(size.height, size.width)]
    last = plans[-1]
    fits = False
    for plan in plans:
        fits = fits or plan is last or decode_working(model, size, plan) <= available
        if fits:
            yield plan


def budget(variant: Variant, machine: int, working_set: int | None = None) -> int:
    """Return the bytes that a render may use.

    Args:
        variant: The variant that renders; its RAM is one limit.
        machine: The machine's memory in bytes; the fraction USABLE_PART of it is another.
        working_set: The working set that MLX recommends, in bytes; None where it recommends none.
    """
    return min(variant.ram_gb * GB, int(machine * USABLE_PART), working_set or variant.ram_gb * GB)


def cache_limit(available: int) -> int:
    """Return the bytes of freed buffers that MLX may keep within a budget of `available` bytes."""
    return min(MAX_CACHE, available // 16)


def evictions(
    loaded: Iterable[str], wanted: str, weights: Mapping[str, int], working: Mapping[str, int], available: int
) -> list[str]:
    """Return the loaded models to unload before `wanted` is loaded and works, within `available` bytes.

    The list is empty where all fit together; else it follows the order of COMPONENTS.
    """
    resident = {*loaded, wanted}
    gone = []
    for name in COMPONENTS:
        if sum(weights[other] for other in resident) + working.get(wanted, 0) <= available:
            break
        if name in resident and name != wanted:
            resident.remove(name)
            gone.append(name)
    return gone


def phase_peaks(variant: Variant, request: GenerationRequest, available: int | None = None) -> dict[str, int]:
    """Return the peak of each phase of a resolved request, in bytes, the cache included.

    Models stay resident as far as they fit the budget together; where one does not fit even alone, its phase is above
    the budget.

    Args:
        variant: The variant that renders.
        request: A resolved request.
        available: The budget in bytes; None for the variant's RAM.
    """
    available = variant.ram_gb * GB if available is None else available
    cache = cache_limit(available)
    weights, working = component_weights(variant), phase_working(variant, request)
    peaks: dict[str, int] = {}
    resident: set[str] = set()
    # The second time round, each phase finds what the render before has left.
    for name in [name for name in PHASES if name in working] * 2:
        resident.add(name)
        if name == "vae":
            plan = _decode_plan(variant, request, resident, available - cache)
            working = phase_working(variant, request, plan)
        resident -= set(evictions(resident, name, weights, working, available - cache))
        peaks[name] = sum(weights[other] for other in resident) + working[name] + cache
    return peaks


def _decode_plan(variant: Variant, request: GenerationRequest, resident: set[str], available: int) -> DecodePlan:
    """Return the first plan that unloads no resident model, or else the first for the VAE alone."""
    weights, size, model = component_weights(variant), latent_size(request), variant.architecture
    beside_all, alone = (
        available - PROCESS_BYTES - sum(weights[name] for name in names) for names in (resident, {"vae"})
    )
    plan = next(decode_plans(model, size, beside_all))
    return plan if decode_working(model, size, plan) <= beside_all else next(decode_plans(model, size, alone))


def predict_peak(variant: Variant, request: GenerationRequest, available: int | None = None) -> int:
    """Return the peak of a resolved request's render within a budget (by default the variant's RAM), in bytes."""
    return max(phase_peaks(variant, request, available).values())


def memory_class(peak: int) -> int:
    """Return the smallest memory class, in GB, with room for `peak` bytes. Raise InvalidRequest above the largest."""
    for size in MEMORY_CLASSES:
        if peak <= size * GB:
            return size
    needed = min(peak, LARGEST_SHOWN) / GB
    raise InvalidRequest(
        f"this render would need {needed:.0f} GB, more than the largest class of {MEMORY_CLASSES[-1]} GB;"
        " ask for fewer frames or a smaller size"
    )


def smallest_class(variant: Variant) -> int:
    """Return the memory class, in GB, of the smallest render of a variant: a worker with less serves no job."""
    return memory_class(smallest_peak(variant))


def smallest_peak(variant: Variant, available: int | None = None) -> int:
    """Return the bytes that the smallest render of a variant needs within a budget of `available` bytes."""
    request = GenerationRequest(prompt="a", width=SIZE_STRIDE, height=SIZE_STRIDE, num_frames=1).resolve(variant)
    return predict_peak(variant, request, available)


def check_fits(variant: Variant, request: GenerationRequest, available: int | None = None) -> None:
    """Raise InvalidRequest, which says what would fit, if a resolved request needs more memory than there is.

    Args:
        variant: The variant that renders.
        request: A resolved request.
        available: The budget in bytes; None for the variant's RAM.
    """
    available = variant.ram_gb * GB if available is None else available
    peak = predict_peak(variant, request, available)
    if peak <= available:
        return
    raise InvalidRequest(
        f"{request.width}x{request.height} with {request.num_frames} frames would need {peak / GB:.1f} GB; a render"
        f" with {variant.name} may use {available / GB:.1f} GB here: {_what_would_fit(variant, request, available)}"
    )


def _what_would_fit(variant: Variant, request: GenerationRequest, available: int) -> str:
    assert request.width and request.height and request.num_frames

    def fits(**change: Any) -> bool:
        return predict_peak(variant, dataclasses.replace(request, **change), available) <= available

    offers = []
    frames = [1 + FRAME_STRIDE * n for n in range((request.num_frames - 1) // FRAME_STRIDE)]
    if longest := max((n for n in frames if fits(num_frames=n)), default=0):
        offers.append(f"{longest} frames of that size")
    for percent in range(95, 0, -5):
        width, height = (
            max(SIZE_STRIDE, math.floor(side * percent / 100 / SIZE_STRIDE) * SIZE_STRIDE)
            for side in (request.width, request.height)
        )
        if fits(width=width, height=height):
            offers.append(f"{width}x{height} with as many frames")
            break
    return f"{' or '.join(offers)} would fit" if offers else "no size of this variant would fit"
