"""Test what a render does besides the numbers: events, seeds, resuming, cancelling, previews."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from ltx_models.errors import InvalidRequest, OutOfMemory, ResumeMismatch, UnknownVariant
from ltx_models.events import (
    Decoded,
    Event,
    Finished,
    FramesDecoded,
    Previewed,
    Progress,
    RenderResult,
    StageBegan,
    Stepped,
    TextEncoded,
)
from ltx_models.families.variants import find_variant
from ltx_models.memory import DecodePlan, check_fits, component_weights, predict_peak
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.request import GenerationRequest
from ltx_models.resume_point import ResumePoint
from ltx_models.sampling.latents import DECODE_NOISE, INITIAL_NOISE, draw_noise
from ltx_models.text_encoders.t5 import T5Encoder
from ltx_models.vae import VAE
from tests.models.conftest import Golden

SMALL = GenerationRequest(
    prompt="a red ball moves left on a grey background", width=64, height=64, num_frames=17, num_steps=3, seed=7
)


def events(pipe: LTXPipeline, request: GenerationRequest = SMALL, **options: Any) -> list[Event]:
    return list(pipe.stream(request, **options))


def _steps(happened: list[Event]) -> list[Stepped]:
    return [event for event in happened if isinstance(event, Stepped)]


def result(pipe: LTXPipeline, request: GenerationRequest = SMALL, **options: Any) -> RenderResult:
    last = events(pipe, request, **options)[-1]
    assert isinstance(last, Finished)
    return last.result


def test_events_come_in_order(pocket: LTXPipeline) -> None:
    happened = events(pocket)
    assert [type(event) for event in happened] == [
        StageBegan,
        TextEncoded,
        Progress,
        StageBegan,
        Stepped,
        Stepped,
        Stepped,
        StageBegan,
        FramesDecoded,
        Progress,
        Decoded,
        Finished,
    ]
    assert [event.stage for event in happened if isinstance(event, StageBegan)] == ["text", "denoise", "decode"]
    progress = [(event.stage, event.done, event.of) for event in happened if isinstance(event, Progress)]
    texts = len(SMALL.resolve(pocket.variant).texts)
    assert progress == [("text", texts, texts), *(("denoise", step, 3) for step in (1, 2, 3)), ("decode", 17, 17)]
    steps = [event for event in happened if isinstance(event, Stepped)]
    assert [(event.step, event.steps) for event in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [event.timestep for event in steps] == pytest.approx([1, 2 / 3, 1 / 3])
    assert all(event.seconds > 0 for event in steps)
    decoded, finished = happened[-2:]
    assert isinstance(decoded, Decoded)
    assert isinstance(finished, Finished)
    assert decoded.frames is finished.result.frames
    np.testing.assert_array_equal(steps[-1].resume.arrays["latents"], finished.result.latents)


def test_result(pocket: LTXPipeline) -> None:
    rendered = result(pocket)
    assert rendered.frames.shape == (17, 64, 64, 3)
    assert rendered.frames.dtype == np.uint8
    assert rendered.latents.shape == (1, 32, 3, 2, 2)
    assert rendered.latents.dtype == np.float32
    assert all(value is not None for name, value in vars(rendered.request).items() if name != "timesteps")


def test_the_same_seed_gives_the_same_video_and_another_seed_another(pocket: LTXPipeline) -> None:
    first, again = result(pocket), result(pocket)
    assert first.latents.tobytes() == again.latents.tobytes()
    assert first.frames.tobytes() == again.frames.tobytes()
    other = result(pocket, dataclasses.replace(SMALL, seed=8))
    assert not np.array_equal(first.latents, other.latents)


def test_a_drawn_seed_renders_the_video_again(pocket: LTXPipeline) -> None:
    drawn = result(pocket, dataclasses.replace(SMALL, seed=None))
    assert drawn.request.seed is not None
    again = result(pocket, drawn.request)
    assert drawn.frames.tobytes() == again.frames.tobytes()


def test_the_largest_seed(pocket: LTXPipeline) -> None:
    assert result(pocket, dataclasses.replace(SMALL, seed=2**63 - 1, num_steps=1)).frames.any()


def test_noise_is_the_same_on_every_machine() -> None:
    """These numbers must never change: a seed in a sidecar would no longer give its video."""
    drawn = draw_noise(7, INITIAL_NOISE, (1, 32, 3, 2, 2))
    assert drawn.flatten()[:4].tolist() == pytest.approx([-1.5634333, 0.05496743, 0.7779191, -1.251728], rel=1e-6)
    assert not np.array_equal(drawn, draw_noise(7, DECODE_NOISE, (1, 32, 3, 2, 2)))


def test_the_seed_draws_the_noise(pocket: LTXPipeline) -> None:
    given = result(pocket, noise=draw_noise(7, INITIAL_NOISE, (1, 32, 3, 2, 2)))
    assert given.latents.tobytes() == result(pocket).latents.tobytes()


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_render_is_the_unbroken_one_bit_for_bit(pocket: LTXPipeline, stop: int) -> None:
    happened = events(pocket)
    unbroken = happened[-1]
    assert isinstance(unbroken, Finished)
    step = _steps(happened)[stop - 1]
    rest = events(pocket, resume=step.resume)
    assert [event.step for event in rest if isinstance(event, Stepped)] == list(range(stop + 1, 4))
    last = rest[-1]
    assert isinstance(last, Finished)
    assert last.result.latents.tobytes() == unbroken.result.latents.tobytes()
    assert last.result.frames.tobytes() == unbroken.result.frames.tobytes()


def test_a_resumed_render_draws_the_same_decode_noise(golden_098: Golden) -> None:
    pipe = golden_098.pipeline()
    happened = events(pipe)
    step, unbroken = _steps(happened)[1], happened[-1]
    assert isinstance(unbroken, Finished)
    assert result(pipe, resume=step.resume).frames.tobytes() == unbroken.result.frames.tobytes()


def test_given_embeddings_take_the_place_of_the_prompts(pocket: LTXPipeline) -> None:
    encoded = next(event for event in events(pocket) if isinstance(event, TextEncoded))
    other_words = dataclasses.replace(SMALL, prompt="not read")
    again = result(pocket, other_words, embeddings=encoded.embeddings)
    assert again.latents.tobytes() == result(pocket).latents.tobytes()


def test_padded_embeddings_mean_the_same(pocket: LTXPipeline) -> None:
    embeddings = pocket.embed(SMALL.prompt)
    padding = np.ones((1, 5, embeddings.prompt.shape[2]), np.float32)
    padded = dataclasses.replace(
        embeddings,
        prompt=np.concatenate([embeddings.prompt, padding], axis=1),
        prompt_mask=np.pad(embeddings.prompt_mask, ((0, 0), (0, 5))),
    )
    assert result(pocket, embeddings=padded).latents.tobytes() == result(pocket).latents.tobytes()


def test_known_texts_are_not_encoded_and_give_the_same(pocket: LTXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    request = SMALL.resolve(pocket.variant)
    assert request.negative_prompt is not None
    whole = pocket.embed(request.prompt, request.negative_prompt)
    assert whole.negative is not None
    assert whole.prompt.shape == pocket.text_shape(request.prompt)
    expected = result(pocket).latents.tobytes()
    monkeypatch.setattr(type(pocket.models), "text_encoder", None)
    known = {request.prompt: whole.prompt, request.negative_prompt: whole.negative}
    assert result(pocket, known_texts=known).latents.tobytes() == expected


def test_embeddings_without_the_negative_prompts_do_for_guidance_one_only(pocket: LTXPipeline) -> None:
    embeddings = pocket.embed(SMALL.prompt, None)
    assert embeddings.negative is None
    without = dataclasses.replace(SMALL, guidance_scale=1.0)
    given, own = result(pocket, without, embeddings=embeddings), result(pocket, without)
    assert given.latents.tobytes() == own.latents.tobytes()
    with pytest.raises(InvalidRequest, match="the negative's embeddings are missing"):
        result(pocket, embeddings=embeddings)


def test_guidance_one_does_not_see_the_negative_prompt(pocket: LTXPipeline) -> None:
    without = dataclasses.replace(SMALL, guidance_scale=1.0)
    first, second = (result(pocket, dataclasses.replace(without, negative_prompt=text)) for text in ("", "blurry"))
    assert first.latents.tobytes() == second.latents.tobytes()


def test_the_negative_prompt_and_guidance_matter(pocket: LTXPipeline) -> None:
    plain = result(pocket).latents
    for change in ({"negative_prompt": "a blue box"}, {"guidance_scale": 5.0}):
        assert not np.array_equal(plain, result(pocket, dataclasses.replace(SMALL, **cast(Any, change))).latents)


def test_previews(pocket: LTXPipeline) -> None:
    request = dataclasses.replace(SMALL, num_steps=5, width=96)
    happened = events(pocket, request, checkpoint_every=2)
    previews = [event for event in happened if isinstance(event, Previewed)]
    assert [event.step for event in previews] == [2, 4]
    assert all(event.image.size == (96, 64) and event.image.mode == "RGB" for event in previews)
    order = [(type(event), event.step) for event in happened if isinstance(event, Stepped | Previewed)]
    assert order[:4] == [(Stepped, 1), (Stepped, 2), (Previewed, 2), (Stepped, 3)]
    assert not any(isinstance(event, Previewed) for event in events(pocket, request))
    last = happened[-1]
    assert isinstance(last, Finished)
    np.testing.assert_array_equal(last.result.frames, result(pocket, request).frames)


def test_no_previews_where_the_vae_does_not_fit_beside_the_transformer(
    monkeypatch: pytest.MonkeyPatch, pocket: LTXPipeline
) -> None:
    variant = pocket.variant

    def fits(budget: int) -> bool:
        with contextlib.suppress(InvalidRequest):
            check_fits(variant, SMALL.resolve(variant), budget)
            return True
        return False

    pocket.clear_all()
    monkeypatch.setattr(pocket.models, "budget", next(n for n in itertools.count(10**7, 10**6) if fits(n)))
    happened = events(pocket, checkpoint_every=1)
    assert isinstance(happened[-1], Finished)
    assert not any(isinstance(event, Previewed) for event in happened)


def test_a_preview_for_which_there_is_no_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, pocket: LTXPipeline
) -> None:
    def fail(*_: Any) -> np.ndarray:
        raise RuntimeError("[malloc] Unable to allocate 123 bytes.")

    monkeypatch.setattr(VAE, "picture", fail)
    happened = events(pocket, checkpoint_every=1)
    assert isinstance(happened[-1], Finished)
    assert not any(isinstance(event, Previewed) for event in happened)


def embedded_during_decode(
    pipe: LTXPipeline, text: str, **options: Any
) -> tuple[list[dict[str, np.ndarray]], RenderResult]:
    """Return the result of `embed_during_decode` after each part of a decode, and the render."""
    found = []
    for event in pipe.stream(SMALL, **options):
        if isinstance(event, FramesDecoded):
            found.append(pipe.embed_during_decode([text]))
    assert isinstance(event, Finished)
    return found, event.result


def test_texts_are_encoded_between_the_parts_of_a_decode(monkeypatch: pytest.MonkeyPatch, pocket: LTXPipeline) -> None:
    monkeypatch.setattr("ltx_models.pipeline.ltxv_models.decode_plans", lambda *_: iter([DecodePlan(1)]))
    undisturbed = result(pocket)
    expected = pocket.embed("a blue square", None).prompt
    found, last = embedded_during_decode(pocket, "a blue square")
    assert len(found) > 1
    for embeddings in found:
        np.testing.assert_array_equal(embeddings["a blue square"], expected)
    np.testing.assert_array_equal(last.frames, undisturbed.frames)


def test_a_text_encoder_that_is_not_in_memory_encodes_nothing_during_a_decode(pocket: LTXPipeline) -> None:
    known = pocket.embed(SMALL.prompt, pocket.variant.negative_prompt)
    pocket.clear_all()
    assert embedded_during_decode(pocket, "a blue square", embeddings=known)[0] == [{}]
    assert pocket.models.text_encoder_during_decode() is None


def test_no_text_is_encoded_during_a_decode_that_leaves_no_room(
    monkeypatch: pytest.MonkeyPatch, pocket: LTXPipeline
) -> None:
    assert embedded_during_decode(pocket, "a blue square")[0] != [{}]
    assert pocket.embed_during_decode(["a blue square"])
    weights = sum(component_weights(pocket.variant)[name] for name in pocket.models._loaded)
    monkeypatch.setattr(pocket.models, "budget", weights + 10**6)
    assert pocket.embed_during_decode(["a blue square"]) == {}


def test_memory_that_runs_out_for_a_text_during_a_decode_is_told(
    monkeypatch: pytest.MonkeyPatch, pocket: LTXPipeline
) -> None:
    def fail(*_: Any) -> mx.array:
        raise RuntimeError("[malloc] Unable to allocate 123 bytes.")

    result(pocket)
    monkeypatch.setattr(T5Encoder, "__call__", fail)
    with pytest.raises(OutOfMemory, match="during the decode"):
        pocket.embed_during_decode(["a blue square"])


def test_a_late_preview_looks_like_the_middle_of_the_video(pocket: LTXPipeline) -> None:
    request = GenerationRequest(prompt=SMALL.prompt, num_steps=6, num_frames=17, seed=0)
    happened = events(pocket, request, checkpoint_every=5)
    preview = next(event for event in happened if isinstance(event, Previewed))
    last = happened[-1]
    assert isinstance(last, Finished)
    differences = np.abs(np.asarray(preview.image, np.float32) - last.result.frames).mean((1, 2, 3))
    assert 6 <= differences.argmin() <= 10
    assert differences.min() < 15


def test_frames_are_handed_out_while_the_next_are_decoded(monkeypatch: pytest.MonkeyPatch, pocket: LTXPipeline) -> None:
    monkeypatch.setattr(type(pocket.models), "decode_plans", lambda *_: [DecodePlan(1)])
    happened = events(pocket)
    parts = [event for event in happened if isinstance(event, FramesDecoded)]
    assert len(parts) > 3
    assert [part.start for part in parts] == [sum(len(p.frames) for p in parts[:i]) for i in range(len(parts))]
    whole = next(event for event in happened if isinstance(event, Decoded))
    np.testing.assert_array_equal(np.concatenate([part.frames for part in parts]), whole.frames)


def test_closing_the_stream_ends_the_render(pocket: LTXPipeline) -> None:
    stream = pocket.stream(SMALL)
    assert isinstance(next(stream), StageBegan)
    assert isinstance(next(stream), TextEncoded)
    assert next(event for event in stream if isinstance(event, Stepped)).step == 1
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert result(pocket).frames.any()


def test_generate_video_reports_progress_and_previews(pocket: LTXPipeline) -> None:
    progress: list[tuple[int, int]] = []
    images: list[tuple[int, Image.Image]] = []
    rendered = pocket.generate_video(
        SMALL.prompt,
        width=64,
        height=64,
        num_frames=17,
        num_steps=3,
        seed=7,
        on_progress=lambda step, steps: progress.append((step, steps)),
        on_checkpoint=lambda step, image: images.append((step, image)),
    )
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert [step for step, _ in images] == [1, 2]
    assert rendered.frames.tobytes() == result(pocket).frames.tobytes()


def test_load_models_reports_rising_fractions() -> None:
    pipe = LTXPipeline("pocket")
    reports: list[tuple[float, str]] = []
    pipe.load_models(progress_callback=lambda fraction, message: reports.append((fraction, message)))
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    reports.clear()
    pipe.load_models(progress_callback=lambda fraction, message: reports.append((fraction, message)))
    assert not reports


def test_clear_all_frees_the_weights() -> None:
    before = mx.get_active_memory()
    pipe = LTXPipeline("pocket", dtype=mx.float32)
    pipe.load_models()
    assert mx.get_active_memory() > before + 30_000_000
    pipe.clear_all()
    assert mx.get_active_memory() < before + 1_000_000
    assert mx.get_cache_memory() == 0


def test_bfloat16_renders_too() -> None:
    request = dataclasses.replace(SMALL, width=32, height=32, num_frames=9, num_steps=2)
    rendered = result(LTXPipeline("pocket", dtype=mx.bfloat16), request)
    assert rendered.latents.dtype == np.float32
    assert np.isfinite(rendered.latents).all()


def test_the_memory_prediction_is_an_upper_bound(pocket: LTXPipeline) -> None:
    for change in ({}, {"width": 128, "height": 96, "num_frames": 25, "num_steps": 1}):
        request = dataclasses.replace(SMALL, **cast(Any, change)).resolve(find_variant("pocket"))
        mx.clear_cache()
        mx.reset_peak_memory()
        result(pocket, request)
        assert mx.get_peak_memory() < predict_peak(find_variant("pocket"), request)


@pytest.mark.parametrize("name", ["noise", "decode_noise"])
def test_noise_of_a_wrong_shape_is_refused(pocket: LTXPipeline, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"this request needs \(1, 32, 3, 2, 2\)"):
        events(pocket, **{name: np.zeros((1, 32, 3, 2, 3), np.float32)})


def test_a_resume_point_of_another_render_is_refused(pocket: LTXPipeline) -> None:
    step = _steps(events(pocket))[2]
    with pytest.raises(InvalidRequest, match="resume point"):
        events(pocket, dataclasses.replace(SMALL, width=96), resume=step.resume)
    with pytest.raises(InvalidRequest, match="after step 3 of 2"):
        events(pocket, dataclasses.replace(SMALL, num_steps=2), resume=step.resume)


def test_a_resume_point_that_was_bytes_meanwhile_is_as_good(pocket: LTXPipeline) -> None:
    happened = events(pocket, job="one")
    step, unbroken = _steps(happened)[1], happened[-1]
    assert isinstance(unbroken, Finished)
    assert (step.resume.stage, step.resume.step, step.resume.provenance) == ("denoise", 2, pocket.provenance("one"))
    again = result(pocket, resume=ResumePoint.unpack(step.resume.pack()), job="one")
    assert again.frames.tobytes() == unbroken.result.frames.tobytes()


def test_a_resume_point_of_another_model_or_job_is_refused(pocket: LTXPipeline) -> None:
    step = _steps(events(pocket, job="one"))[0]
    with pytest.raises(ResumeMismatch, match="made with another job"):
        events(pocket, resume=step.resume, job="two")
    other = LTXPipeline("pocket", dtype=mx.float16)
    with pytest.raises(ResumeMismatch, match="made with another dtype"):
        events(other, resume=step.resume, job="one")
    other = LTXPipeline("pocket")
    other.hashes = {"checkpoint": "0" * 64}
    with pytest.raises(ResumeMismatch, match="made with another checkpoint"):
        events(other, resume=step.resume, job="one")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": "refine"}, "stage 'refine'"),
        ({"step": 0}, "after step 0 of 3"),
        ({"step": 4}, "after step 4 of 3"),
        ({"arrays": {}}, "'latents' are needed"),
        ({"arrays": {"video": np.zeros((1, 32, 3, 2, 2), np.float32)}}, "the arrays 'video'"),
        ({"arrays": {"latents": np.zeros((1, 32, 3, 2, 2), np.float64)}}, "type float64"),
        ({"arrays": {"latents": np.zeros((32, 3, 2, 2), np.float32)}}, r"shape \(32, 3, 2, 2\)"),
        ({"arrays": {"latents": np.zeros((1, 32, 3, 2, 2), np.float32), "extra": np.zeros(3, np.float32)}}, "extra"),
    ],
)
def test_a_resume_point_without_what_is_needed_is_refused(pocket: LTXPipeline, change: Any, words: str) -> None:
    latents = np.zeros((1, 32, 3, 2, 2), np.float32)
    point = ResumePoint("denoise", 1, {"latents": latents}, pocket.provenance())
    with pytest.raises(ResumeMismatch, match=words):
        events(pocket, resume=dataclasses.replace(point, **change))


def test_embeddings_of_another_model_are_refused(pocket: LTXPipeline, golden_098: Golden) -> None:
    with pytest.raises(InvalidRequest, match=r"needs \(1, N, 128\)"):
        events(pocket, embeddings=golden_098.embeddings())


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UnknownVariant, match="pocket"):
        LTXPipeline("nonesuch")
