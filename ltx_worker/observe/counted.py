"""The engine and the ledger, as a worker uses them, with what they do counted."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any

from ltx_client.protocol import events
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.state import Snapshot, Status
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Message, Ready, Render, Written
from ltx_worker.engine.supervisor import Engine, EngineDied
from ltx_worker.ledger.ledger import Claim, Ledger, Named, StaleAttempt, Strike, Verdict
from ltx_worker.observe.metrics import Metrics

__all__ = ["MeteredEngine", "MeteredLedger"]

REMEMBERED = 100
"""Attempts."""


class MeteredEngine(Engine):
    """Counts steps, phases and deaths."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    def render(
        self, command: Callable[[Ready], Render], should_stop: Callable[[], bool], *limit: float
    ) -> Generator[Message, None, None]:
        """As Engine does."""
        with self._metrics.rendering(), contextlib.closing(super().render(command, should_stop, *limit)) as stream:
            try:
                for message in stream:
                    if isinstance(message, messages.Stepped):
                        self._metrics.stepped(message.seconds)
                    elif isinstance(message, messages.Decoded):
                        self._metrics.rendered(message.seconds, message.peak_memory)
                        self.video.add_done_callback(self._note_video)
                    yield message
            except EngineDied as error:
                self._metrics.engine_died(of_its_machine=error.fault is not None)
                raise

    def _note_video(self, video: Future[Written]) -> None:
        if video.exception() is None:
            self._metrics.written(video.result().seconds)


class MeteredLedger(Ledger):
    """Counts how attempts end."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics
        self._ended: deque[tuple[str, object]] = deque(maxlen=REMEMBERED)
        self._lost: deque[tuple[str, object]] = deque(maxlen=REMEMBERED)

    def commit(self, attempt: Claim, event: events.Done | events.Failed | events.Cancelled) -> Verdict:
        """As Ledger does."""
        with self._ending(attempt):
            verdict = super().commit(attempt, event)
        if verdict is Verdict.GO_ON:
            self._metrics.ended(event.type)
        return verdict

    def release(
        self, attempt: Claim, reason: str, strike: Strike | None = None, *, by: str = "", verdict: str = ""
    ) -> Status:
        """As Ledger does."""
        with self._ending(attempt):
            status = super().release(attempt, reason, strike, by=by, verdict=verdict)
        self._metrics.ended("released" if status is Status.QUEUED else status)
        return status

    def requeue(self, job_id: str, snapshot: Snapshot, job: Job | None = None) -> Status | None:
        """As Ledger does."""
        status = super().requeue(job_id, snapshot, job)
        if status is Status.QUEUED:
            self._metrics.requeued()
        return status

    @contextlib.contextmanager
    def _ending(self, attempt: Claim) -> Iterator[None]:
        """What other threads hear of an attempt that this worker ends itself is no loss, even before the answer."""
        own = (attempt.job_id, attempt.number)
        self._ended.append(own)
        try:
            yield
        except Exception:  # whatever it is, the attempt goes on, and it is raised again
            self._ended.remove(own)
            raise

    def _run(self, script: str, job_id: str, named: Named) -> str:
        with self._noticing_loss(script, job_id, named):
            return super()._run(script, job_id, named)

    def _run_all(self, script: str, job_id: str, calls: list[Named]) -> list[str]:
        with self._noticing_loss(script, job_id, calls[0]):
            return super()._run_all(script, job_id, calls)

    @contextlib.contextmanager
    def _noticing_loss(self, script: str, job_id: str, named: Named) -> Iterator[None]:
        try:
            yield
        except StaleAttempt:
            attempt = (job_id, named["attempt"])
            expected = attempt in self._ended and script not in ("commit", "release")
            if not expected and attempt not in self._lost:  # each of its threads hears of it
                self._lost.append(attempt)
                self._metrics.lease_lost()
            raise
