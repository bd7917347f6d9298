"""Encode texts of the next render between two parts of the current render's decode."""

from __future__ import annotations

import logging
from collections import deque

import numpy as np

from ltx_models.errors import ModelError
from ltx_models.pipeline.base import Pipeline

__all__ = ["TextsAhead"]

log = logging.getLogger(__name__)


class TextsAhead:
    """Keeps the texts of at most one command, and their embeddings until the next render takes them.

    The thread that reads commands calls `ask` and `forget`; the thread that renders calls the others.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._asked: deque[list[str]] = deque(maxlen=1)
        self._encoded: dict[str, np.ndarray] = {}

    def ask(self, texts: list[str]) -> None:
        """Request that texts be encoded; replace an earlier request."""
        self._asked.append(texts)

    def forget(self) -> None:
        """Drop the request: the next render has begun, and encodes by itself what was not encoded so far."""
        self._asked.clear()

    def encode(self) -> None:
        """Encode the requested texts, if any, where the text encoder is in memory and has room."""
        try:
            texts = self._asked.popleft()
        except IndexError:
            return
        self._encoded = {}
        try:
            self._encoded = self._pipeline.embed_during_decode(texts)
        except ModelError as error:  # of the next render, which will fail too; the current one continues
            log.warning("texts of the next render were not encoded ahead: %s", error)
        else:
            log.debug("%d of %d texts of the next render are encoded ahead", len(self._encoded), len(texts))

    def take(self) -> dict[str, np.ndarray]:
        """Return the embeddings (1, N, D) by text, and forget them."""
        encoded, self._encoded = self._encoded, {}
        return encoded
