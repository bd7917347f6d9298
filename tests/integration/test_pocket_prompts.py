"""pocket follows its prompts: captions of combinations that its training never saw, rendered by the farm's engine."""

import json
from pathlib import Path

import pytest

from ltx_models.request import GenerationRequest
from ltx_models.variants import find_variant
from ltx_worker.engine.messages import Render, Written
from ltx_worker.engine.supervisor import Engine
from tests.clips import read_clip
from tests.judge import judge

CAPTIONS = json.loads((Path(__file__).parents[1] / "data/pocket/prompts.json").read_text())
ENOUGH = 22


@pytest.fixture(scope="module")
def engine():
    engine = Engine("pocket")
    yield engine
    engine.close()


def render(engine, caption, output):
    request = GenerationRequest(
        prompt=caption, num_steps=8, guidance_scale=3, width=128, height=128, num_frames=25, frame_rate=12, seed=0
    ).resolve(find_variant("pocket"))
    *_, last = engine.render(Render(request=request, checkpoint_every=0, output=output), lambda: False)
    assert isinstance(last, Written)
    return read_clip(output).frames


def test_captions_come_out_right(engine, tmp_path):
    wrong = {}
    for caption in CAPTIONS:
        verdict = judge(render(engine, caption, tmp_path / "clip.mp4"), caption)
        if not (verdict.colour and verdict.motion):
            wrong[caption] = verdict
    assert len(CAPTIONS) == 24
    assert len(CAPTIONS) - len(wrong) >= ENOUGH, wrong
