"""Gives the memory of an idle worker's models back: after a while, and sooner where the machine runs short."""

from __future__ import annotations

import logging

import psutil

from ltx_worker.engine.supervisor import Engine
from ltx_worker.threads.background import Background

__all__ = ["Thrift"]

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
SHORT_BELOW = 0.1
"""Of the machine's memory: with less than that available, an idle engine goes at once."""
BETWEEN_JOBS = 10.0
"""Seconds without a render that are no idleness yet."""


class Thrift(Background):
    """A thread that ends the engine process, and so frees all that it holds; the next render starts it again.

    after: seconds without a render; 0 keeps the engine until memory runs short.
    """

    def __init__(self, engine: Engine, after: float) -> None:
        super().__init__("thrift")
        self._engine = engine
        self._after = after

    def _cycle(self) -> None:
        if not self._stopped.wait(min(LOOK_EVERY, self._after / 4) if self._after else LOOK_EVERY):
            self.look()

    def look(self) -> None:
        """Ends the engine if that is due."""
        memory = psutil.virtual_memory()
        if memory.available < SHORT_BELOW * memory.total:
            if self._engine.free_if_idle(BETWEEN_JOBS):
                log.warning("this machine's memory runs short; the idle models were freed")
        elif self._after and self._engine.free_if_idle(self._after):
            log.info("no job for %g s; the models were freed, and are loaded again for the next", self._after)
