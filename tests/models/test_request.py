"""Test what a request refuses, and that the sentence says what would be right."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ltx_models.errors import InvalidRequest, UnknownVariant
from ltx_models.families.variants import VARIANTS, find_variant
from ltx_models.memory import GB, memory_class, predict_peak
from ltx_models.request import LAST_FRAME, ConditioningItem, GenerationRequest


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_frames": 30}, "25 or 33"),
        ({"num_frames": 0}, "1 to 513"),
        ({"num_frames": 521}, "1 to 513"),
        ({"width": 500}, "480 or 512"),
        ({"height": 100}, "96 or 128"),
        ({"width": 0}, "32 to 2048"),
        ({"width": -32}, "32 to 2048"),
        ({"height": 4096}, "32 to 2048"),
        ({"width": 128.0}, "not a whole number"),
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n\t"}, "empty"),
        ({"prompt": "x" * 20_000}, "20,000 characters; at most 4,000"),
        ({"negative_prompt": "x" * 20_000}, "negative prompt has 20,000 characters"),
        ({"prompt": "a\x00b"}, "U+0000"),
        ({"prompt": "a\x1b[2J"}, "U+001B, which is not text"),
        ({"negative_prompt": "a\ud800"}, "U+D800"),
        ({"num_steps": 0}, "steps 0 is out of range; 1 to 1,000"),
        ({"num_steps": 1_001}, "1 to 1,000"),
        ({"num_steps": True}, "not a whole number"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 2**63}, "out of range"),
        ({"frame_rate": 0}, "above 0"),
        ({"frame_rate": float("nan")}, "not a number"),
        ({"guidance_scale": 0.5}, "1 to 30"),
        ({"guidance_scale": float("inf")}, "not a number"),
        ({"decode_timestep": 1.5}, "0 to 1"),
        ({"decode_noise_scale": -0.1}, "0 to 1"),
        ({"timesteps": ()}, "0 timesteps"),
        ({"timesteps": (0.5, 0.5)}, "timesteps are invalid: they must fall"),
        ({"timesteps": (1.0, 0.0)}, "above 0"),
        ({"timesteps": (1.0, 0.5), "num_steps": 3}, "give one of the two"),
        ({"guidance_scale": (1, 0.5)}, "1 to 30"),
        ({"guidance_scale": ()}, "guidance has no values"),
        ({"guidance_scale": (1, 2), "guidance_timesteps": (1.0, 0.9, 0.8)}, "has 2 values and there are 3"),
        ({"stg_blocks": ((1,), (2,)), "guidance_timesteps": (1.0,)}, "stg_blocks has 2 values and there are 1"),
        ({"guidance_timesteps": (0.5, 0.9)}, "the guidance timesteps are invalid: they must fall"),
        ({"stg_scale": -1}, "stg_scale -1 is out of range; 0 to 30"),
        ({"stg_blocks": (1.5,)}, "stg_blocks 1.5 is not a whole number"),
        ({"stg_blocks": (-1,)}, "out of range"),
        ({"stg_mode": "attention"}, "attention_values, attention_skip, transformer_block, residual are known"),
        ({"rescale": 1.5}, "rescale 1.5 is out of range"),
        ({"stochastic": 1}, "neither true nor false"),
        ({"skip_first_steps": -1}, "out of range"),
        ({"skip_first_steps": 2, "skip_last_steps": 2, "num_steps": 4}, "4 of 4 steps are skipped"),
        ({"image_noise_scale": 2}, "0 to 1"),
        ({"conditioning": (ConditioningItem(kind="image", source="a.png"),) * 17}, "at most 16"),
        ({"conditioning": (ConditioningItem(kind="image", source="a.png", frame=25),), "num_frames": 25}, "has 25"),
        ({"conditioning": (ConditioningItem(kind="video", source="a.mp4", frame=24),), "num_frames": 25}, "needs 33"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        GenerationRequest(**{"prompt": "a cat", **values})
    assert words in str(error.value)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "sound"}, "image and video are known"),
        ({"source": " "}, "the source of an image is empty"),
        ({"source": "", "kind": "video"}, "the source of a video is empty"),
        ({"source": "a\x00b"}, "empty"),
        ({"source": "a" * 5_000}, "more than 4,096 characters"),
        ({"frame": -2}, "conditioning frame -2 is out of range"),
        ({"frame": 1.0}, "not a whole number"),
        ({"strength": 0}, "above 0"),
        ({"strength": 1.1}, "above 0 to 1"),
        ({"crop": None, "blur": "yes"}, "blur 'yes' is neither"),
        ({"kind": "video", "frame": 12}, "8 or 16 would"),
        ({"kind": "video", "frame": LAST_FRAME}, "0 or 8 would"),
    ],
)
def test_a_wrong_conditioning_item_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        ConditioningItem(**{"kind": "image", "source": "a.png", **values})
    assert words in str(error.value)


def test_the_last_frame_is_known_when_the_request_is_resolved() -> None:
    items = (
        ConditioningItem(kind="image", source="a.png"),
        ConditioningItem(kind="image", source="b.png", frame=LAST_FRAME),
    )
    request = GenerationRequest(prompt="a cat", conditioning=items).resolve(find_variant("pocket"))
    assert [item.frame for item in request.conditioning] == [0, 24]
    assert request.resolve(find_variant("pocket")) == request


def test_a_frame_beyond_the_variants_own_length_is_refused() -> None:
    late = (ConditioningItem(kind="image", source="a.png", frame=30),)
    with pytest.raises(InvalidRequest, match="needs 31 frames at least; the video has 25"):
        GenerationRequest(prompt="a cat", conditioning=late).resolve(find_variant("pocket"))


def test_values_for_more_timesteps_than_the_variant_has_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="guidance_scale has 2 values and there are 0 guidance timesteps"):
        GenerationRequest(prompt="a cat", guidance_scale=(3.0, 1.0)).resolve(find_variant("pocket"))


@pytest.mark.parametrize("num_steps", [None, *range(1, 9)])
def test_a_distilled_variant_takes_its_own_timesteps(num_steps: int | None) -> None:
    distilled = find_variant("distilled")
    request = GenerationRequest(prompt="a cat", num_steps=num_steps).resolve(distilled)
    assert request.num_steps == (num_steps or 7)
    assert request.timesteps is not None
    assert len(request.timesteps) == request.num_steps
    assert request.resolve(distilled) == request


def test_more_steps_than_a_variant_was_distilled_for_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="1 to 8 steps are possible"):
        GenerationRequest(prompt="a cat", num_steps=20).resolve(find_variant("distilled"))


def test_timesteps_of_the_request_go_before_the_variants() -> None:
    request = GenerationRequest(prompt="a cat", timesteps=(1.0, 0.4)).resolve(find_variant("distilled"))
    assert (request.timesteps, request.num_steps) == ((1.0, 0.4), 2)


@pytest.mark.parametrize(
    "values",
    [
        {"num_frames": 1, "width": 32, "height": 32},
        {"num_frames": 513, "width": 2048, "height": 2048},
        {"num_steps": 1, "guidance_scale": 1, "seed": 0},
        {"num_steps": 1_000, "guidance_scale": 30.0, "seed": 2**63 - 1, "frame_rate": 23.976},
        {"prompt": "x" * 4_000, "negative_prompt": ""},
        {"timesteps": (1.0, 0.5), "num_steps": 2},
        {"guidance_timesteps": (1.0, 0.5), "stg_blocks": ((), (3, 4)), "stg_scale": (0, 1), "rescale": 0.7},
        {"conditioning": (ConditioningItem(kind="video", source="a.mp4", frame=16),), "num_frames": 25},
        {"conditioning": (ConditioningItem(kind="image", source="a.png", frame=24, strength=1),), "num_frames": 25},
    ],
)
def test_the_edges_are_allowed(values: dict[str, Any]) -> None:
    GenerationRequest(**{"prompt": "кот 🐈", **values})


def test_resolve_fills_in_the_variants_values_and_draws_a_seed() -> None:
    pocket = find_variant("pocket")
    resolved = GenerationRequest(prompt="a cat", width=64).resolve(pocket)
    assert (resolved.width, resolved.height, resolved.num_frames) == (64, 128, 25)
    assert (resolved.num_steps, resolved.guidance_scale, resolved.frame_rate) == (8, 3.0, 12.0)
    assert resolved.seed is not None
    assert resolved.resolve(pocket) == resolved


def test_timesteps_decide_the_number_of_steps() -> None:
    assert GenerationRequest(prompt="a cat", timesteps=(1.0, 0.5, 0.2)).resolve(find_variant("pocket")).num_steps == 3


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(UnknownVariant, match="'nonesuch'; the known ones are: pocket"):
        find_variant("nonesuch")


def test_pocket_at_its_own_size_is_in_the_smallest_class() -> None:
    pocket = find_variant("pocket")
    assert memory_class(predict_peak(pocket, GenerationRequest(prompt="a cat").resolve(pocket))) == 1


def test_every_variants_own_render_fits_what_it_may_use() -> None:
    for variant in VARIANTS.values():
        peak = predict_peak(variant, GenerationRequest(prompt="a cat").resolve(variant))
        assert peak <= variant.ram_gb * GB


def test_what_no_class_holds_is_refused() -> None:
    assert memory_class(128 * GB) == 128
    with pytest.raises(InvalidRequest, match="fewer frames"):
        memory_class(128 * GB + 1)


def test_plain_modules_load_no_mlx() -> None:
    """A laptop that only submits has neither MLX nor NumPy."""
    code = (
        "import sys, ltx_models.errors, ltx_models.memory, ltx_models.request, ltx_models.families.variants;"
        "print(sorted({'mlx', 'numpy', 'PIL', 'safetensors', 'sentencepiece', 'imageio_ffmpeg'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_events_and_video_load_no_mlx() -> None:
    code = "import sys, ltx_models.events, ltx_models.video; print('mlx' in sys.modules or 'mlx.core' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
