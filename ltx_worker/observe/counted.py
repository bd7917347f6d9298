"""Counts what becomes of attempts, as one of their observers."""

from __future__ import annotations

from ltx_worker.attempt.attempt import Attempt, AttemptObserver
from ltx_worker.attempt.states import State
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Message
from ltx_worker.engine.supervisor import EngineDied
from ltx_worker.observe.metrics import Metrics

__all__ = ["CountedAttempts"]

COUNTED = {
    State.DONE: "done",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.REQUEUED: "released",
}
"""What ends are called in the metrics; of an attempt that was dropped, whoever ends the job tells."""


class CountedAttempts(AttemptObserver):
    """Counts steps, stages, deaths of the engine, and ends, and for how long the GPU has work."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def moved(self, attempt: Attempt, before: State) -> None:
        """Count a render from its begin to its last frame."""
        self._metrics.rendering((attempt.state is State.RENDERING) - (before is State.RENDERING))

    def progressed(self, attempt: Attempt, message: Message) -> None:  # noqa: ARG002 - of whichever attempt
        """Count a step, the stages of a render, or what an MP4 took."""
        match message:
            case messages.Stepped():
                self._metrics.stepped(message.seconds)
            case messages.Decoded():
                self._metrics.rendered(message.seconds, message.peak_memory)
            case messages.Written():
                self._metrics.written(message.seconds)

    def engine_died(self, attempt: Attempt, error: EngineDied) -> None:  # noqa: ARG002
        """Count a death of the engine."""
        self._metrics.engine_died(of_its_machine=error.fault is not None)

    def ended(self, attempt: Attempt) -> None:
        """Count an end."""
        if outcome := COUNTED.get(attempt.state):
            self._metrics.ended(outcome)

    def lost(self, attempt: Attempt) -> None:  # noqa: ARG002
        """Count a lost lease."""
        self._metrics.lease_lost()
