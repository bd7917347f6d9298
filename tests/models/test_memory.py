"""Test the arithmetic of memory: the measured values, which models make room, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ltx_models.errors import InvalidRequest
from ltx_models.families.architectures import LTX_2B, LTX_13B
from ltx_models.families.variants import VARIANTS, Variant, find_variant
from ltx_models.ltxv.footprint import decode_plans, decode_working
from ltx_models.memory import (
    CHUNKS,
    GB,
    DecodePlan,
    LatentSize,
    budget,
    cache_limit,
    check_fits,
    component_weights,
    evictions,
    latent_size,
    phase_peaks,
    phase_working,
    predict_peak,
)
from ltx_models.request import ConditioningItem, GenerationRequest

MEASURED = [
    # variant, size, and on one H100 the peaks in GB of the components that it went through, the cache included
    ("distilled-fp8", (768, 512, 97), (9.60, 9.77, 10.18)),
    ("distilled-fp8", (1216, 704, 121), (9.60, 11.15, 10.69)),
    ("distilled", (768, 512, 97), (11.48, 11.52, 12.06)),
    ("distilled", (1216, 704, 121), (11.48, 12.91, 12.57)),
    ("dev", (768, 512, 97), (15.46, 17.71, 16.40)),
    ("dev", (1216, 704, 121), (15.32, 21.81, 16.96)),
]
FULL_SIZE = [name for name, row in VARIANTS.items() if not isinstance(row.files["checkpoint"], str)]
PICTURE = ConditioningItem(kind="image", source="x.png")
CLIP = ConditioningItem(kind="video", source="x.mp4")


def make(variant: Variant, **values: Any) -> GenerationRequest:
    return GenerationRequest(prompt="a cat", **values).resolve(variant)


@pytest.mark.parametrize(("name", "size", "measured"), MEASURED)
def test_predictions_are_what_was_measured(
    name: str, size: tuple[int, int, int], measured: tuple[float, float, float]
) -> None:
    variant = find_variant(name)
    width, height, frames = size
    peaks = phase_peaks(variant, make(variant, width=width, height=height, num_frames=frames))
    for phase, peak in zip(("text_encoder", "transformer", "vae"), measured, strict=True):
        assert peaks[phase] / GB == pytest.approx(peak, rel=0.15), phase


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("distilled-fp8", {"text_encoder": 5.18, "vae_encoder": 1.39, "vae": 1.11, "transformer": 1.97}),
        ("distilled", {"text_encoder": 5.18, "vae_encoder": 1.39, "vae": 1.11, "transformer": 3.85}),
        ("dev", {"text_encoder": 9.52, "vae_encoder": 1.39, "vae": 1.11, "transformer": 3.85}),
    ],
)
def test_weights(name: str, expected: dict[str, float]) -> None:
    weights = component_weights(find_variant(name))
    assert {part: round(size / GB, 2) for part, size in weights.items()} == expected


def test_weights_in_fewer_bits_and_of_a_larger_model() -> None:
    distilled = find_variant("distilled")
    for bits, size in ((8, 2.08), (4, 1.14)):
        quantized = dataclasses.replace(distilled, bits={**distilled.bits, "transformer": bits})
        assert component_weights(quantized)["transformer"] / GB == pytest.approx(size, abs=0.02)
    large = dataclasses.replace(distilled, architecture=LTX_13B)
    assert component_weights(large)["transformer"] / GB == pytest.approx(2 * 13.04, rel=0.01)


@pytest.mark.parametrize("name", FULL_SIZE)
@pytest.mark.parametrize("size", [(768, 512, 97), (1216, 704, 121)])
@pytest.mark.parametrize("conditioning", [(), (PICTURE,)])
def test_all_models_stay_resident_within_the_variants_ram(
    name: str, size: tuple[int, int, int], conditioning: tuple[ConditioningItem, ...]
) -> None:
    """Between jobs nothing is read again: no model makes room for another.

    That is so with pictures only at 768x512, since a timestep for each token and the encoder take more.
    """
    variant = find_variant(name)
    width, height, frames = size
    request = make(variant, width=width, height=height, num_frames=frames, conditioning=conditioning)
    check_fits(variant, request)
    if conditioning and width > 768:
        return
    available = variant.ram_gb * GB - cache_limit(variant.ram_gb * GB)
    weights, working = component_weights(variant), phase_working(variant, request)
    names = [part for part in variant.family.unloading if part in working]
    for part in names:
        if part != "vae":  # which takes what is left
            assert evictions(names, part, weights, working, available) == []


def test_a_clip_needs_more_than_a_picture() -> None:
    variant = find_variant("distilled")
    picture, clip = (phase_working(variant, make(variant, conditioning=(item,))) for item in (PICTURE, CLIP))
    assert clip["vae_encoder"] > 3 * picture["vae_encoder"]
    assert clip["transformer"] == picture["transformer"]
    later = dataclasses.replace(PICTURE, frame=8)
    assert phase_working(variant, make(variant, conditioning=(later,)))["transformer"] > picture["transformer"]


def test_guidance_needs_a_row_each() -> None:
    dev = find_variant("dev")
    three, two, one = (
        phase_working(dev, make(dev, **change))["transformer"]
        for change in ({}, {"stg_scale": 0.0}, {"stg_scale": 0.0, "guidance_scale": 1.0})
    )
    assert 1.3 < three / two < 1.6
    assert 1.7 < two / one < 2.1
    varying = make(dev, guidance_scale=(1.0, 6.0), guidance_timesteps=(1.0, 0.5), stg_scale=0.0)
    assert phase_working(dev, varying)["transformer"] == two


WEIGHTS = {"text_encoder": 5, "vae_encoder": 1, "vae": 1, "transformer": 4}
WORKING = {"text_encoder": 1, "vae_encoder": 2, "vae": 2, "transformer": 2}


@pytest.mark.parametrize(
    ("loaded", "wanted", "available", "gone"),
    [
        (["text_encoder", "vae"], "transformer", 12, []),
        (["text_encoder", "vae"], "transformer", 11, ["text_encoder"]),
        (["text_encoder", "vae"], "transformer", 6, ["text_encoder", "vae"]),
        (["transformer", "vae", "vae_encoder"], "text_encoder", 10, ["vae_encoder", "vae"]),
        (["transformer", "vae"], "text_encoder", 3, ["vae", "transformer"]),  # not even alone: all that can go
        (["transformer"], "transformer", 6, []),
        ([], "vae", 0, []),
    ],
)
def test_what_makes_room(loaded: list[str], wanted: str, available: int, gone: list[str]) -> None:
    assert evictions(loaded, wanted, WEIGHTS, WORKING, available) == gone


def test_the_budget_is_the_least_of_three() -> None:
    variant = find_variant("distilled")
    assert budget(variant, 64 * GB) == 16 * GB
    assert budget(variant, 16 * GB) == 12 * GB
    assert budget(variant, 64 * GB, 11 * GB) == 11 * GB
    assert budget(variant, 64 * GB, 48 * GB) == 16 * GB
    assert cache_limit(16 * GB) == GB // 2
    assert cache_limit(GB) == GB // 16


def test_decode_plans_fall() -> None:
    size = LatentSize(16, 22, 38)
    plans = list(decode_plans(LTX_2B, size, 100 * GB))
    assert plans[0] == DecodePlan(CHUNKS[0])
    assert plans[-1].tile
    inside = [decode_working(LTX_2B, size, plan) for plan in plans]
    streamed = [need for need, plan in zip(inside, plans, strict=True) if plan.tile is None]
    assert streamed == sorted(streamed, reverse=True)
    for available in (2 * GB, 3 * GB // 2, GB):
        first = next(decode_plans(LTX_2B, size, available))
        assert decode_working(LTX_2B, size, first) <= available or first == plans[-1]
    assert list(decode_plans(LTX_2B, size, 0)) == plans[-1:]


def test_a_tight_budget_predicts_one_model_at_a_time() -> None:
    variant = dataclasses.replace(find_variant("distilled"), ram_gb=8)
    peaks = phase_peaks(variant, make(variant))
    assert {phase: round(peak / GB, 2) for phase, peak in peaks.items()} == {
        "text_encoder": pytest.approx(6.52, rel=0.15),
        "transformer": pytest.approx(5.23, rel=0.15),
        "vae": pytest.approx(6.88, rel=0.15),
    }
    assert max(peaks.values()) <= 8 * GB


def test_a_refusal_offers_what_would_fit() -> None:
    variant = find_variant("distilled-fp8")
    request = make(variant, width=1920, height=1088, num_frames=257)
    with pytest.raises(InvalidRequest, match=r"1920x1088 with 257 frames would need \d+") as refusal:
        check_fits(variant, request)
    words = str(refusal.value).split()
    frames = int(words[words.index("of") - 2])
    width, height = map(int, words[words.index("with", words.index("or")) - 1].split("x"))
    for offer in ({"num_frames": frames}, {"width": width, "height": height}):
        check_fits(variant, dataclasses.replace(request, **offer))
    with pytest.raises(InvalidRequest):
        check_fits(variant, dataclasses.replace(request, num_frames=frames + 8))


def test_a_refusal_where_nothing_would_fit() -> None:
    variant = find_variant("dev")
    with pytest.raises(InvalidRequest, match="no size of this variant would fit"):
        check_fits(variant, make(variant), 2 * GB)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_prediction_grows_with_the_video(name: str) -> None:
    variant = find_variant(name)
    ladder = [(256, 9), (512, 25), (768, 49), (1024, 97), (1536, 193), (2048, 513)]
    peaks = [predict_peak(variant, make(variant, width=n, height=n, num_frames=f), 1000 * GB) for n, f in ladder]
    assert peaks == sorted(peaks)
    assert latent_size(make(variant, width=256, height=128, num_frames=9), variant.family.limits).tokens == 2 * 8 * 4
