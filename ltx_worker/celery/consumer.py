"""Lets other threads of the worker stop and start Celery's taking of messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker import state

from ltx_worker.threads.watched import Threads

__all__ = ["Consumer", "make_worker"]

CONSUMER_LIMIT = 300.0
"""Seconds: every command of the loop's has an answer, or an error, within much less."""


def make_worker(app: Celery, on_collapse: Callable[[], object], **options: Any) -> Any:
    """Return a `celery.worker.WorkController` that calls `on_collapse` when its main loop ends unasked.

    Celery then waits for the running task, however long that takes.
    """

    class Worker(app.Worker):  # type: ignore[misc]
        def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
            if state.should_stop is None:
                on_collapse()
            super().stop(in_sighandler=in_sighandler, exitcode=exitcode)

        def terminate(self, in_sighandler: bool = False) -> None:
            if state.should_stop is None:
                on_collapse()
            super().terminate(in_sighandler=in_sighandler)

    return Worker(**options)


class Consumer:
    """Does what is asked for in Celery's own loop, soon. worker: a `celery.worker.WorkController`."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._wanted = True

    def watch(self, threads: Threads) -> None:
        """Add Celery's loop, in the main thread, to the supervised threads; each of its rounds is a beat.

        It is silent while Celery tries to connect, and while the worker ends, which may take as long as the running
        job.
        """
        loop = threads.adopt("consumer", threading.main_thread(), CONSUMER_LIMIT, self._may_be_silent)
        self._worker.hub.on_tick.add(lambda: loop.live() if loop.failing else loop.beat())

    def _may_be_silent(self) -> bool:
        return self._worker.consumer.connection is None or state.should_stop is not None

    def stop(self) -> None:
        """Take no more messages."""
        self._wanted = False
        self._worker.consumer.call_soon(self._apply)

    def start(self) -> None:
        """Take messages again."""
        self._wanted = True
        self._worker.consumer.call_soon(self._apply)

    def rebuild(self) -> None:
        """Connect anew."""
        self._worker.consumer.call_soon(_lose_connection)

    def taken(self) -> int | None:
        """Return how many messages were taken so far; None while one is in hand, or no more are to be taken."""
        busy = state.reserved_requests or state.active_requests or state.should_stop is not None
        return None if busy or not self._wanted else state.all_total_count[0]

    def _apply(self) -> None:
        tasks = self._worker.consumer.task_consumer
        if tasks is None:  # between two connections; it is asked again
            return
        if self._wanted:
            tasks.consume()
        else:
            tasks.cancel()


def _lose_connection() -> None:
    """Raise an error of the connection, after which Celery builds its consumer anew."""
    raise ConnectionResetError("the consumer was deaf")
