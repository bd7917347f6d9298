"""Test that the next render's texts are encoded during the current decode, and that its result is the same."""

from dataclasses import dataclass, replace

import pytest

from ltx_models.families.variants import find_variant
from ltx_models.request import GenerationRequest
from ltx_worker.engine.messages import Decoded, Message, Render, Stepped, TextEncoded
from ltx_worker.engine.supervisor import Engine

STEPS = 20
"""Of the render in hand: enough for a command to come before its decode, on a busy machine too."""
VARIANT = find_variant("pocket")
FIRST = GenerationRequest(
    prompt="a red ball rolls to the right on a navy background",
    num_steps=STEPS,
    guidance_scale=3,
    width=64,
    height=64,
    num_frames=17,
    seed=0,
).resolve(VARIANT)
NEXT = replace(FIRST, prompt="a blue square falls on a pink background", num_steps=3)
OTHER = replace(NEXT, prompt="a green triangle rises on a black background")
SABOTAGE = """
import sys
if "ltx_worker.engine" in sys.orig_argv:
    from ltx_models.pipeline import text_to_video as pipeline
    from ltx_models.errors import CheckpointError

    def embed_during_decode(self, texts):
        raise CheckpointError("no text can be encoded today")

    pipeline.LTXPipeline.embed_during_decode = embed_during_decode
"""


@dataclass
class Rendered:
    text: TextEncoded
    sha256: str


@pytest.fixture
def start(tmp_path):
    """Return a function that starts an engine and renders, and meanwhile requests texts of the next render."""
    engines = []

    def new_engine():
        engine = Engine("pocket")
        engines.append(engine)

        def render(request, *commands, known=None):
            output = tmp_path / "video.mp4"
            command = Render(request=request, checkpoint_every=0, output=output, embeddings=known or {})
            messages: list[Message] = []
            for message in engine.render(lambda _: command, lambda: False):
                messages.append(message)
                if isinstance(message, Stepped) and message.step == 1:
                    for texts in commands:
                        engine.encode_ahead(texts)
            assert isinstance(messages[-1], Decoded)
            (text,) = (message for message in messages if isinstance(message, TextEncoded))
            return Rendered(text, engine.video.result(timeout=60).sha256)

        render.engine = engine
        return render

    yield new_engine
    for engine in engines:
        engine.close()


@pytest.fixture
def plain(start):
    """Render NEXT without any text encoded ahead."""
    render = start()
    rendered = render(NEXT)
    assert rendered.text.ahead == 0
    assert rendered.text.fresh.keys() == {NEXT.prompt, NEXT.negative_prompt}
    return rendered


def test_the_next_render_takes_what_was_encoded_ahead_and_is_the_same(start, plain):
    render = start()
    first = render(FIRST, [NEXT.prompt])
    known = {FIRST.negative_prompt: first.text.fresh[FIRST.negative_prompt]}
    following = render(NEXT, known=known)
    assert following.text.ahead == 1
    assert following.text.fresh == {NEXT.prompt: plain.text.fresh[NEXT.prompt]}
    assert following.sha256 == plain.sha256
    again = render(NEXT, known=known)
    assert (again.text.ahead, again.text.fresh) == (0, following.text.fresh)


def test_the_render_in_hand_is_the_same(start):
    render = start()
    undisturbed = render(FIRST)
    assert render(FIRST, [NEXT.prompt]).sha256 == undisturbed.sha256


def test_of_two_commands_the_later_one_counts(start):
    render = start()
    render(FIRST, [OTHER.prompt], [NEXT.prompt, NEXT.negative_prompt])
    assert render(NEXT).text.ahead == 2
    render(FIRST, [NEXT.prompt], [OTHER.prompt])
    assert render(NEXT).text.ahead == 0


def test_texts_that_the_next_render_does_not_need_are_dropped(start, plain):
    render = start()
    render(FIRST, [OTHER.prompt])
    following = render(NEXT)
    assert following.text == plain.text
    assert following.sha256 == plain.sha256
    assert render(OTHER).text.ahead == 0


def test_a_text_encoder_that_is_not_in_memory_is_not_loaded(start, plain):
    known = start()(FIRST).text.fresh
    render = start()
    assert render(FIRST, [NEXT.prompt], known=known).text.fresh == {}
    following = render(NEXT)
    assert following.text == plain.text
    assert following.sha256 == plain.sha256


def test_what_the_model_refuses_ahead_does_not_hurt_the_render_in_hand(start, plain, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    render = start()
    render(FIRST, [NEXT.prompt])
    following = render(NEXT)
    assert following.text == plain.text
    assert following.sha256 == plain.sha256


def test_an_engine_without_a_render_in_hand_is_told_nothing(start):
    render = start()
    render.engine.encode_ahead([NEXT.prompt])  # not started
    render(OTHER)
    render.engine.encode_ahead([NEXT.prompt])
    assert render(NEXT).text.ahead == 0
    render.engine.close()
    render.engine.encode_ahead([NEXT.prompt])
