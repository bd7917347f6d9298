"""Saves resume points while a render goes on: the newest wins, and no step waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from ltx_models.errors import MachineFault
from ltx_models.machine_faults import machine_fault
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.ledger.ledger import Claim, StaleAttempt
from ltx_worker.threads.background import watched
from ltx_worker.threads.watched import LIVE_EVERY, STORAGE_LIMIT, Loop, brief, join

__all__ = ["ResumeSaver"]

log = logging.getLogger(__name__)


class ResumeSaver:
    """Is a context manager; on leaving, the newest point has been saved, or its saving has failed.

    note_fault: told of what is wrong with the machine, where that is why one was not saved.
    """

    def __init__(self, points: ResumePoints, claim: Claim, note_fault: Callable[[MachineFault], object]) -> None:
        self._points = points
        self._note_fault = note_fault
        self._claim = claim
        self._newest: bytes | None = None
        self._leaving = False
        self._changed = threading.Condition()
        self._thread = watched(self._run, "saver", name=f"saver-{claim.job_id}", limit=STORAGE_LIMIT)

    def __enter__(self) -> ResumeSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Return when the newest point has been saved, or could not be."""
        with self._changed:
            self._leaving = True
            self._changed.notify()
        join(self._thread)

    def offer(self, resume_point: bytes) -> None:
        """Save it soon, unless a newer one comes before. Never wait."""
        with self._changed:
            self._newest = resume_point
            self._changed.notify()
        if self._thread.ident is None:
            self._thread.start()

    def _run(self, loop: Loop) -> None:
        while (point := self._next(loop)) is not None:
            try:
                self._points.save(self._claim, point)
            except StaleAttempt:
                return
            except BaseException as error:  # noqa: BLE001 - the next point may be saved; none costs some steps
                loop.note(error)
                log.debug("job %s: a resume point was not saved: %s", self._claim.job_id, brief(error))
                if fault := machine_fault(error):  # the render may still end well here, but no other should begin
                    self._note_fault(fault)
            else:
                loop.beat()

    def _next(self, loop: Loop) -> bytes | None:
        """Return the newest point, once there is one; None at the end."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._newest is not None or self._leaving, LIVE_EVERY):
                loop.live()
            point, self._newest = self._newest, None
        return point
