"""Predict what a render needs, and read how much memory this machine has.

This is arithmetic without MLX, so that a client can sort a job into its memory class. GB is 10**9 bytes everywhere. A
phase of a render needs the weights that are resident and its own working memory, which functions of its family compute
(`ltx_models.families.family.Component`). A peak includes the cache of freed buffers that MLX is allowed to keep.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ltx_models.errors import InvalidRequest
from ltx_models.families.family import Component, Limits, named
from ltx_models.families.variants import VARIANTS, Variant, known_families
from ltx_models.request import GenerationRequest

__all__ = [
    "GB",
    "MEMORY_CLASSES",
    "DecodePlan",
    "LatentSize",
    "budget",
    "cache_limit",
    "check_fits",
    "component_weights",
    "evictions",
    "latent_size",
    "limits_of",
    "machine_memory",
    "memory_class",
    "phase_peaks",
    "phase_working",
    "plans_of",
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

CHUNKS = tuple(size * 1_000_000 for size in (128, 64, 32, 16))
TILES = (32, 24, 16, 12)
TILE_OVERLAP = 8
"""The least overlap of neighbouring tiles of a decode, in latents."""
PACE_BYTES = 20_000_000
"""Bytes of a network's activations that are queued before earlier ones are waited for (`ltx_models.layers.pacing`)."""


@dataclass(frozen=True)
class LatentSize:
    """The size of a video's latents: frames, rows and columns."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """The number of latents: tokens of a network that sees each as one."""
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


def machine_memory() -> int:
    """Return this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def limits_of(variant: str) -> Limits:
    """Return the limits of a variant's family; those of the first family for a variant that is not known here."""
    row = VARIANTS.get(variant)
    return (next(known_families()) if row is None else row.family).limits


def latent_size(request: GenerationRequest, limits: Limits) -> LatentSize:
    """Return the latent size of a resolved request of a family."""
    assert request.width and request.height and request.num_frames
    frames = (request.num_frames - 1) // limits.frame_stride + 1
    return LatentSize(frames, request.height // limits.size_stride, request.width // limits.size_stride)


def component_weights(variant: Variant) -> dict[str, int]:
    """Return the bytes that each network's weights take in memory, by its name, in the order of unloading."""
    components = [variant.family.component(name) for name in variant.family.unloading]
    return {each.name: named(each.weights)(variant) for each in components}


def phase_working(
    variant: Variant, request: GenerationRequest, plans: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Return the bytes that each network takes in addition to its weights while it works, by its name.

    What the request does not use is left out.

    Args:
        variant: The variant that renders.
        request: A resolved request.
        plans: The plans of networks that can work in several ways, by name; others work as fast as they can.
    """
    plans = plans or {}
    working = {
        each.name: named(each.working)(variant, request, plans.get(each.name)) for each in variant.family.components
    }
    return {name: round(value) + PROCESS_BYTES for name, value in working.items() if value is not None}


def plans_of(variant: Variant, request: GenerationRequest, component: Component) -> list[Any]:
    """Return the ways in which a network can work on a resolved request, by falling need of memory; [None] for one."""
    return list(named(component.plans)(variant, request)) if component.plans else [None]


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

    The list is empty where all fit together; else it follows the order of `weights`.
    """
    resident = {*loaded, wanted}
    gone = []
    for name in weights:
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
    for component in [each for each in variant.family.components if each.name in working] * 2:
        name = component.name
        resident.add(name)
        if component.plans:
            plan = _first_plan(variant, request, component, resident, available - cache)
            working = phase_working(variant, request, {name: plan})
        resident -= set(evictions(resident, name, weights, working, available - cache))
        peaks[name] = sum(weights[other] for other in resident) + working[name] + cache
    return peaks


def _first_plan(
    variant: Variant, request: GenerationRequest, component: Component, resident: set[str], available: int
) -> Any:
    """Return the first plan that unloads no resident model, or else the first for the network alone, or the last."""
    weights = component_weights(variant)
    plans = plans_of(variant, request, component)
    for names in (resident, {component.name}):
        left = available - PROCESS_BYTES - sum(weights[name] for name in names)
        for plan in plans:
            if named(component.working)(variant, request, plan) <= left:
                return plan
    return plans[-1]


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
    side = variant.family.limits.size_stride
    request = GenerationRequest(prompt="a", width=side, height=side, num_frames=1).resolve(variant)
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
    stride, side = variant.family.limits.frame_stride, variant.family.limits.size_stride
    frames = [1 + stride * n for n in range((request.num_frames - 1) // stride)]
    if longest := max((n for n in frames if fits(num_frames=n)), default=0):
        offers.append(f"{longest} frames of that size")
    for percent in range(95, 0, -5):
        width, height = (
            max(side, math.floor(length * percent / 100 / side) * side) for length in (request.width, request.height)
        )
        if fits(width=width, height=height):
            offers.append(f"{width}x{height} with as many frames")
            break
    return f"{' or '.join(offers)} would fit" if offers else "no size of this variant would fit"
