"""Unload the models of an idle worker: after a while, or sooner when the machine is short of memory."""

from __future__ import annotations

import logging

import psutil

from ltx_worker.engine.supervisor import Engine
from ltx_worker.threads.background import Background

__all__ = ["IdleUnload"]

log = logging.getLogger(__name__)

CHECK_EVERY = 5.0
SHORT_BELOW = 0.1
"""A fraction of the machine's memory: with less than that available, an idle engine is ended at once."""
BETWEEN_JOBS = 10.0
"""Seconds without a render after which the engine counts as idle when memory is short."""


class IdleUnload(Background):
    """A thread that ends an idle engine process, which frees its memory; the next render starts it again.

    Args:
        engine: the engine.
        after: seconds without a render; 0 keeps the engine until memory is short.
    """

    def __init__(self, engine: Engine, after: float) -> None:
        super().__init__("idle-unload")
        self._engine = engine
        self._after = after

    def _cycle(self) -> None:
        if not self._stopped.wait(min(CHECK_EVERY, self._after / 4) if self._after else CHECK_EVERY):
            self.unload_if_due()

    def unload_if_due(self) -> None:
        """End the engine if it was idle for long enough."""
        memory = psutil.virtual_memory()
        if memory.available < SHORT_BELOW * memory.total:
            if self._engine.free_if_idle(BETWEEN_JOBS):
                log.warning("this machine is short of memory; the idle models were unloaded")
        elif self._after and self._engine.free_if_idle(self._after):
            log.info("no job for %g s; the models were unloaded, and are loaded again for the next job", self._after)
