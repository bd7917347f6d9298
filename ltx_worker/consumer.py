"""Celery's taking of messages, as other threads of the worker may ask for it."""

from __future__ import annotations

from typing import Any

from celery.worker import state

__all__ = ["Consumer"]


class Consumer:
    """What is asked for is done in Celery's own loop, soon. worker: a `celery.worker.WorkController`."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._wanted = True

    def stop(self) -> None:
        """Takes no more messages."""
        self._wanted = False
        self._worker.consumer.call_soon(self._apply)

    def start(self) -> None:
        """Takes them again."""
        self._wanted = True
        self._worker.consumer.call_soon(self._apply)

    def rebuild(self) -> None:
        """Connects anew."""
        self._worker.consumer.call_soon(_lose_connection)

    def taken(self) -> int | None:
        """How many messages were taken so far; None while one is in hand, or no more are to be taken."""
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
    """What Celery does after an error of its connection is to build its consumer anew."""
    raise ConnectionResetError("the consumer was deaf")
