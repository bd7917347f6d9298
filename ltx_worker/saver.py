"""Saves resume points beside the render: the newest wins, and no step waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

import redis

from ltx_client.protocol.storage import StorageError
from ltx_models.errors import MachineFault
from ltx_models.faults import machine_fault
from ltx_worker.ledger import Attempt, StaleAttempt
from ltx_worker.resume_points import ResumePoints

__all__ = ["ResumeSaver"]

log = logging.getLogger(__name__)


class ResumeSaver:
    """A context manager; on leaving, the newest point has been saved, or its saving has failed.

    note_fault: told of what is wrong with the machine, where that is why one was not saved.
    """

    def __init__(self, points: ResumePoints, attempt: Attempt, note_fault: Callable[[MachineFault], object]) -> None:
        self._points = points
        self._note_fault = note_fault
        self._attempt = attempt
        self._newest: bytes | None = None
        self._leaving = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"saver-{attempt.job_id}", daemon=True)

    def __enter__(self) -> ResumeSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Returns when the newest point has been saved, or could not be."""
        with self._changed:
            self._leaving = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def offer(self, resume_point: bytes) -> None:
        """Saves it soon, unless a newer one comes before. Never waits."""
        with self._changed:
            self._newest = resume_point
            self._changed.notify()
        if self._thread.ident is None:
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._leaving)
                point, self._newest = self._newest, None
            if point is None:
                return
            try:
                self._points.save(self._attempt, point)
            except StaleAttempt:
                return
            except (redis.RedisError, StorageError, OSError, MemoryError) as error:
                log.warning("job %s: a resume point was not saved: %s", self._attempt.job_id, error)
                if fault := machine_fault(error):  # the render may still end well here, but no other should begin
                    self._note_fault(fault)
