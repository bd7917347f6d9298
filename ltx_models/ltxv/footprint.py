"""Predict the memory of LTX-Video's networks. Arithmetic without MLX, as `ltx_models.memory` asks for it.

The constants are ratios measured by MLX's own counter of its peak, on one H100 with MLX 0.32 (see the README's table).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from ltx_models.families.architectures import Architecture
from ltx_models.families.ltxv import FRAME_STRIDE, LTXV, SIZE_STRIDE, TEXT_TOKENS
from ltx_models.families.variant import Variant
from ltx_models.memory import CHUNKS, PACE_BYTES, READING_BYTES, TILES, DecodePlan, LatentSize, latent_size
from ltx_models.request import GenerationRequest

__all__ = ["SMALLEST_PLAN", "decode_plans", "decode_working"]

SMALLEST_PLAN = DecodePlan(CHUNKS[-1])
"""The plan that needs the least memory without tiles."""

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
PATCH = 4
RGB = 3


def text_encoder_weights(variant: Variant) -> int:
    """Return the bytes of the text encoder's weights."""
    model = variant.architecture
    matrices = model.text_layers * model.text_width * (4 * model.text_inner + 3 * model.text_hidden)
    number = _bytes_of_number(model, variant.bits.get("text_encoder"))
    return round(matrices * number + model.vocabulary * model.text_width * model.itemsize)


def encoder_weights(variant: Variant) -> int:
    """Return the bytes of the weights of the VAE's encoder."""
    model = variant.architecture
    return model.encoder_parameters * model.itemsize


def decoder_weights(variant: Variant) -> int:
    """Return the bytes of the weights of the VAE's decoder."""
    model = variant.architecture
    return model.decoder_parameters * model.itemsize


def transformer_weights(variant: Variant) -> int:
    """Return the bytes of the transformer's weights."""
    model, bits = variant.architecture, variant.bits.get("transformer")
    matrices = model.layers * 16 * model.width**2
    around = model.width * (model.caption_channels + 2 * model.latent_channels + 256 + 8 * model.width)
    small = model.layers * 25 * model.width
    number = _bytes_of_number(model, bits or variant.checkpoint_bits)
    if not bits and variant.checkpoint_bits == 8:
        number = 1.0  # fp8, which has no scales
    return round(matrices * number + (around + small) * model.itemsize)


def _bytes_of_number(model: Architecture, bits: int | None) -> float:
    """Return bytes for each number; quantized ones share a 16-bit scale and bias in groups of 64."""
    return model.itemsize if bits is None or bits >= 16 else bits / 8 + 4 / 64


def text_encoder_working(variant: Variant, _request: GenerationRequest, _plan: None) -> int:
    """Return the bytes that the text encoder takes while it works."""
    return TEXT_LAYERS_IN_FLIGHT * _text_layer_working(variant)


def transformer_working(variant: Variant, request: GenerationRequest, _plan: None) -> float:
    """Return the bytes that the transformer takes while it works, and a preview that is decoded meanwhile."""
    size = _size(request)
    return _denoise_working(variant, request, size) + _preview_working(variant.architecture, size)


def decoder_working(variant: Variant, request: GenerationRequest, plan: DecodePlan | None) -> int:
    """Return the bytes that a decode takes by a plan; None stands for the one with the largest chunks."""
    return decode_working(variant.architecture, _size(request), plan or DecodePlan(CHUNKS[0]))


def encoder_working(variant: Variant, request: GenerationRequest, _plan: None) -> int | None:
    """Return the bytes that the VAE's encoder takes while it works; None without pictures and clips."""
    if not request.conditioning:
        return None
    size = _size(request)
    clips = any(item.kind == "video" for item in request.conditioning)
    shown = size if clips else dataclasses.replace(size, frames=1)
    # One after another: of each only the latents stay.
    return max(READING_BYTES + _pixel_bytes(shown), _encode_working(variant.architecture, shown))


def all_decode_plans(_variant: Variant, request: GenerationRequest) -> list[DecodePlan]:
    """Return the ways to decode, by falling need of memory."""
    return _plans(_size(request))


def _size(request: GenerationRequest) -> LatentSize:
    return latent_size(request, LTXV.limits)


def _text_layer_working(variant: Variant) -> int:
    """Return the working memory of a layer, with its quantized weights widened as on CUDA."""
    model = variant.architecture
    numbers = TEXT_ACTIVATIONS * TEXT_TOKENS * model.text_width
    if variant.bits.get("text_encoder"):
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
    if variant.checkpoint_bits == 8 or variant.bits.get("transformer"):
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
    plans = _plans(size)
    last = plans[-1]
    fits = False
    for plan in plans:
        fits = fits or plan is last or decode_working(model, size, plan) <= available
        if fits:
            yield plan


def _plans(size: LatentSize) -> list[DecodePlan]:
    plans = [DecodePlan(chunk) for chunk in CHUNKS]
    return plans + [DecodePlan(CHUNKS[-1], tile) for tile in TILES if tile < max(size.height, size.width)]
