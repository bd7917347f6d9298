"""Texts of the next render, encoded between two parts of the decode of the one in hand."""

from __future__ import annotations

import logging
from collections import deque

import numpy as np

from ltx_models.errors import ModelError
from ltx_models.pipeline.text_to_video import LTXPipeline

__all__ = ["TextsAhead"]

log = logging.getLogger(__name__)


class TextsAhead:
    """Holds the texts of one command at most, and their embeddings until the next render takes them.

    `ask` and `forget` are for the thread that reads commands, the others for the one that renders.
    """

    def __init__(self, pipeline: LTXPipeline) -> None:
        self._pipeline = pipeline
        self._asked: deque[list[str]] = deque(maxlen=1)
        self._encoded: dict[str, np.ndarray] = {}

    def ask(self, texts: list[str]) -> None:
        """Has them encoded soon, in place of what was asked for before."""
        self._asked.append(texts)

    def forget(self) -> None:
        """The next render has come: it encodes itself what was not encoded so far."""
        self._asked.clear()

    def encode(self) -> None:
        """Encodes what was asked for, if anything, where the text encoder is in memory and has room."""
        try:
            texts = self._asked.popleft()
        except IndexError:
            return
        self._encoded = {}
        try:
            self._encoded = self._pipeline.embed_during_decode(texts)
        except ModelError as error:  # of the next render, which will meet it too; the one in hand goes on
            log.warning("texts of the next render were not encoded ahead: %s", error)
        else:
            log.debug("%d of %d texts of the next render are encoded ahead", len(self._encoded), len(texts))

    def take(self) -> dict[str, np.ndarray]:
        """The embeddings (1, N, D) by their texts, and lets go of them."""
        encoded, self._encoded = self._encoded, {}
        return encoded
