"""Test pictures and clips as a person gives them, through the bundled model; and the refusals of a render."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from ltx_models.errors import CheckpointError, InvalidRequest, MediaError
from ltx_models.events import Finished, RenderResult, Stepped
from ltx_models.pipeline.conditioning_pixels import conditioning_pixels
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.request import LAST_FRAME, ConditioningItem, GenerationRequest
from ltx_models.video import write_mp4
from tests.models.conftest import TOKENIZER, Golden

OFF: dict[str, Any] = {"crop": False, "blur": False, "compress": False}
REQUEST = GenerationRequest(
    prompt="a red ball moves right on a grey background", width=128, height=128, num_frames=25, num_steps=4, seed=7
)


def drawn_clip(frames: int) -> np.ndarray:
    """Return a red disc that moves right by two pixels a frame, uint8 (F, 128, 128, 3)."""
    y, x = np.mgrid[:128, :128]
    clip = np.full((frames, 128, 128, 3), 128, np.uint8)
    for index, frame in enumerate(clip):
        frame[(x - 40 - 2 * index) ** 2 + (y - 64) ** 2 < 18**2] = (200, 30, 30)
    return clip


@pytest.fixture
def picture(tmp_path: Path) -> ConditioningItem:
    Image.fromarray(drawn_clip(1)[0]).save(tmp_path / "frame.png")
    return ConditioningItem(kind="image", source=str(tmp_path / "frame.png"))


@pytest.fixture
def clip(tmp_path: Path) -> ConditioningItem:
    write_mp4(drawn_clip(17), tmp_path / "clip.mp4", 12)
    return ConditioningItem(kind="video", source=str(tmp_path / "clip.mp4"), **OFF)


def render(pipe: LTXPipeline, *items: ConditioningItem, **options: Any) -> RenderResult:
    *_, last = pipe.stream(dataclasses.replace(REQUEST, conditioning=items), **options)
    assert isinstance(last, Finished)
    return last.result


def psnr(frames: np.ndarray, picture: np.ndarray) -> float:
    """Return the PSNR of values in [0, 1]."""
    return float(-10 * np.log10(((frames - picture) ** 2).mean()))


def round_trip(pipe: LTXPipeline, frames: np.ndarray) -> np.ndarray:
    return pipe.decode(pipe.encode(frames), timestep=0.05)


def test_the_vae_round_trip_is_the_picture_again(pocket: LTXPipeline) -> None:
    frames = drawn_clip(17)
    latents = pocket.encode(frames)
    assert latents.shape == (1, 32, 3, 4, 4)
    assert latents.dtype == np.float32
    assert psnr(pocket.decode(latents, timestep=0.05), frames / 255) > 22
    np.testing.assert_allclose(latents, pocket.encode(frames / 255), atol=1e-4)


def test_the_first_frame_is_the_picture_as_the_vae_gives_it_back(
    pocket: LTXPipeline, picture: ConditioningItem
) -> None:
    expected = conditioning_pixels(picture, REQUEST)[0]
    alone = psnr(round_trip(pocket, expected[None])[0], expected)
    first = render(pocket, picture).frames[0] / 255
    assert psnr(first, expected) > alone - 1


@pytest.mark.lane("models")
def test_without_the_picture_the_first_frame_is_another(pocket: LTXPipeline, picture: ConditioningItem) -> None:
    expected = conditioning_pixels(picture, REQUEST)[0]
    assert psnr(render(pocket, picture).frames[0] / 255, expected) > psnr(render(pocket).frames[0] / 255, expected) + 3


def test_a_clip_is_extended(pocket: LTXPipeline, clip: ConditioningItem) -> None:
    expected = conditioning_pixels(clip, REQUEST)
    assert len(expected) == 17
    result = render(pocket, clip)
    assert result.frames.shape == (25, 128, 128, 3)
    alone = psnr(round_trip(pocket, expected)[:9], expected[:9])
    assert psnr(result.frames[:9] / 255, expected[:9]) > alone - 1


@pytest.mark.lane("models")
def test_a_later_picture_changes_the_video_and_adds_no_frames(pocket: LTXPipeline, picture: ConditioningItem) -> None:
    last = dataclasses.replace(picture, frame=LAST_FRAME, strength=0.9)
    with_last, without = render(pocket, picture, last), render(pocket, picture)
    assert with_last.frames.shape == without.frames.shape
    assert with_last.latents.shape == (1, 32, 4, 4, 4)
    assert not np.array_equal(with_last.latents, without.latents)
    assert [item.frame for item in with_last.request.conditioning] == [0, 24]


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_render_is_the_unbroken_one_bit_for_bit(
    pocket: LTXPipeline, picture: ConditioningItem, stop: int
) -> None:
    items = (picture, dataclasses.replace(picture, frame=12, strength=0.5))
    request = dataclasses.replace(REQUEST, conditioning=items, stochastic=True)
    *happened, unbroken = pocket.stream(request)
    assert isinstance(unbroken, Finished)
    resume = next(event.resume for event in happened if isinstance(event, Stepped) and event.step == stop)
    assert "extra" in resume.arrays
    *_, last = pocket.stream(request, resume=resume)
    assert isinstance(last, Finished)
    assert last.result.frames.tobytes() == unbroken.result.frames.tobytes()
    with pytest.raises(InvalidRequest, match="16 extra tokens; this request needs 0"):
        list(pocket.stream(REQUEST, resume=resume))


@pytest.mark.lane("models")
def test_given_latents_take_the_place_of_the_file(pocket: LTXPipeline, picture: ConditioningItem) -> None:
    encoded = pocket.encode(conditioning_pixels(picture, REQUEST))
    nowhere = dataclasses.replace(picture, source="sha256:0")
    again = render(pocket, nowhere, conditioning_latents=[encoded])
    assert again.latents.tobytes() == render(pocket, picture).latents.tobytes()


@pytest.mark.lane("models")
def test_latents_to_begin_with(pocket: LTXPipeline) -> None:
    """With all but the last step skipped, a video comes out as it went in, except for that step's noise."""
    latents = pocket.encode(drawn_clip(25))
    request = dataclasses.replace(REQUEST, num_steps=40, skip_first_steps=39, guidance_scale=1.0)
    *events, last = pocket.stream(request, latents=latents)
    assert isinstance(last, Finished)
    assert [event.timestep for event in events if isinstance(event, Stepped)] == pytest.approx([1 / 40])
    assert np.corrcoef(last.result.latents.flatten(), latents.flatten())[0, 1] > 0.99


@pytest.mark.lane("models")
def test_the_last_step_that_is_kept_removes_all_noise(pocket: LTXPipeline) -> None:
    """As in LTX-Video's pipeline, the cut list of timesteps replaces the scheduler's."""
    skipping = dataclasses.replace(REQUEST, num_steps=4, skip_last_steps=2)
    *steps, last = pocket.stream(skipping)
    kept = tuple(event.timestep for event in steps if isinstance(event, Stepped))
    assert len(kept) == 2
    *_, same = pocket.stream(dataclasses.replace(REQUEST, num_steps=2, timesteps=kept))
    assert isinstance(last, Finished) and isinstance(same, Finished)
    np.testing.assert_array_equal(last.result.latents, same.result.latents)


@pytest.mark.lane("models")
def test_blocks_beyond_the_models_last_are_inert_without_guidance(pocket: LTXPipeline) -> None:
    """The official file of the 2B model names block 42 of 28, with a scale of 0."""
    *_, plain = pocket.stream(REQUEST)
    *_, named = pocket.stream(dataclasses.replace(REQUEST, stg_blocks=(42,)))
    assert isinstance(plain, Finished) and isinstance(named, Finished)
    np.testing.assert_array_equal(plain.result.latents, named.result.latents)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conditioning_latents": []}, "0 latents were given for 1 conditioning items"),
        ({"conditioning_latents": [np.zeros((1, 32, 1, 4, 5), np.float32)]}, "does not fit into"),
        ({"latents": np.zeros((1, 32, 4, 4, 5), np.float32)}, "the latents has the shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    pocket: LTXPipeline, picture: ConditioningItem, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        render(pocket, picture, **options)


def test_missing_conditioning_noise_is_refused(pocket: LTXPipeline, picture: ConditioningItem) -> None:
    with pytest.raises(InvalidRequest, match="0 conditioning noises were given; item 1 needs one too"):
        render(pocket, dataclasses.replace(picture, frame=8), conditioning_noise=[])


def test_skipping_first_steps_needs_latents(pocket: LTXPipeline) -> None:
    with pytest.raises(InvalidRequest, match="where there are latents to begin with"):
        list(pocket.stream(dataclasses.replace(REQUEST, skip_first_steps=1)))


def test_a_file_that_is_not_there_is_named(pocket: LTXPipeline, picture: ConditioningItem) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.png cannot be read"):
        render(pocket, dataclasses.replace(picture, source="/nowhere.png"))


@pytest.mark.parametrize("shape", [(8, 64, 64, 3), (9, 64, 63, 3), (64, 64, 3)])
def test_frames_of_a_wrong_shape_are_not_encoded(pocket: LTXPipeline, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"use \(8n\+1, H, W, 3\)"):
        pocket.encode(np.zeros(shape, np.uint8))


def test_a_checkpoint_without_an_encoder_says_so(golden_098: Golden, tmp_path: Path) -> None:
    loaded: Any = mx.load(str(golden_098.checkpoint), return_metadata=True)
    tensors, metadata = loaded
    kept = {name: value for name, value in tensors.items() if not name.startswith("vae.encoder.")}
    path = tmp_path / "no-encoder.safetensors"
    mx.save_safetensors(str(path), kept, metadata)
    pipe = LTXPipeline.from_files(checkpoint=path, text_encoder=golden_098.text_encoder, tokenizer=TOKENIZER)
    with pytest.raises(CheckpointError, match="has no VAE encoder, which pictures and clips need"):
        pipe.encode(np.zeros((1, 64, 64, 3), np.uint8))
