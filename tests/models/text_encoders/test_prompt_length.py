"""Test that the reported number of a prompt's tokens is what the text encoder has read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltx_client.protocol.events import CutText
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.request import GenerationRequest
from ltx_worker.engine.host import EngineHost


@pytest.mark.parametrize("words", [40, 300])
def test_the_engine_tells_of_what_its_embeddings_are_of(pocket: LTXPipeline, words: int) -> None:
    prompt, negative = "a red ball " * words, "blurry " * words
    request = GenerationRequest(prompt=prompt, negative_prompt=negative).resolve(pocket.variant)
    encoded = pocket.embed(prompt, negative)
    unused: Any = None
    told = EngineHost("pocket", unused, unused)._cut_texts(request, encoded)
    assert encoded.negative is not None
    counts = {"prompt": pocket.count_tokens(prompt), "negative prompt": pocket.count_tokens(negative)}
    reads = {"prompt": encoded.prompt.shape[1], "negative prompt": encoded.negative.shape[1]}
    assert told == tuple(
        CutText(text=name, tokens=counts[name], read=reads[name]) for name in counts if counts[name] > reads[name]
    )
    assert len(told) == (2 if words == 300 else 0)
    if told:
        assert set(reads.values()) == {256}
        np.testing.assert_array_equal(pocket.embed(prompt + "and a dog", None).prompt, encoded.prompt)
