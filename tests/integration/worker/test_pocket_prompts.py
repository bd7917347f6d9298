"""Test that the bundled models follow their prompts, with combinations that no training saw."""

import json
from pathlib import Path

import pytest

from ltx_models.families.variants import find_variant
from ltx_models.pocket.judge import judge
from ltx_models.request import GenerationRequest
from ltx_worker.engine.messages import Decoded, Render, Resuming, Stepped
from ltx_worker.engine.supervisor import Engine
from tests.clips import read_clip

CAPTIONS = json.loads((Path(__file__).parents[2] / "data/pocket/prompts.json").read_text())
ENOUGH = 23


@pytest.fixture(scope="module")
def engine():
    engine = Engine("pocket")
    yield engine
    engine.close()


@pytest.fixture
def distilled():
    engine = Engine("pocket-distilled")
    yield engine
    engine.close()


def render(engine, variant, caption, output):
    request = GenerationRequest(prompt=caption, seed=0).resolve(find_variant(variant))
    command = Render(request=request, checkpoint_every=0, output=output)
    *_, last = engine.render(lambda _: command, lambda: False)
    assert isinstance(last, Decoded)
    engine.video.result(timeout=60)
    return read_clip(output).frames


def wrong_ones(engine, variant, output):
    verdicts = {caption: judge(render(engine, variant, caption, output), caption) for caption in CAPTIONS}
    return {caption: verdict for caption, verdict in verdicts.items() if not verdict.right}


def test_captions_come_out_right(engine, tmp_path):
    assert len(CAPTIONS) == 24
    wrong = wrong_ones(engine, "pocket", tmp_path / "clip.mp4")
    assert len(CAPTIONS) - len(wrong) >= ENOUGH, wrong


def test_captions_come_out_right_in_four_steps(distilled, tmp_path):
    wrong = wrong_ones(distilled, "pocket-distilled", tmp_path / "clip.mp4")
    assert len(CAPTIONS) - len(wrong) >= ENOUGH, wrong


def test_a_resume_point_of_another_request_is_not_used(engine, tmp_path):
    def follow(side, resume=None):
        request = GenerationRequest(prompt="a ball", num_steps=2, width=side, height=side, num_frames=9, seed=0)
        command = Render(
            request=request.resolve(find_variant("pocket")),
            checkpoint_every=0,
            output=tmp_path / f"{side}-{resume is None}.mp4",
            resume=resume,
        )
        messages = list(engine.render(lambda _: command, lambda: False))
        return messages, engine.video.result(timeout=60).sha256

    (small, _), (_, undisturbed) = follow(64), follow(96)
    point = next(message.resume for message in small if isinstance(message, Stepped))
    messages, sha256 = follow(96, point)
    told = [message for message in messages if isinstance(message, Resuming)]
    assert [message.step for message in told] == [1, 0]
    assert "(1, 32, 2, 2, 2); this request needs (1, 32, 2, 3, 3)" in told[-1].reason
    assert sha256 == undisturbed
