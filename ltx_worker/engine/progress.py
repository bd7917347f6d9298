"""Reports how far a render has come, stage by stage, and measures how long each of them takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from ltx_models import events
from ltx_models.families.stages import STEP, Stage, count_steps
from ltx_models.request import GenerationRequest
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Message

__all__ = ["StageReporter"]

PROGRESS_EVERY = 1.0
"""Seconds between two messages about the progress of what counts no steps."""


class StageReporter:
    """Sends what a render tells of its stages.

    Args:
        stages: The stages of the model's family, in order.
        request: The resolved request.
        send: Sends a message to the worker.

    Attributes:
        seconds: How long each stage took that has ended. What precedes the first one counts as a part of it.
    """

    def __init__(self, stages: Sequence[Stage], request: GenerationRequest, send: Callable[[Message], object]) -> None:
        self.seconds: dict[str, float] = {}
        self._stages = stages
        self._request = request
        self._send = send
        first = next((place for place, stage in enumerate(stages) if stage.hands_over), len(stages))
        self._hand_over = {stage.name for stage in stages[first:]}
        self._stage: str | None = None
        self._since = time.perf_counter()
        self._told = self._untold_seconds = 0.0

    def begin(self, event: events.StageBegan) -> None:
        """Report that a stage begins; at the first from which the GPU is handed over, report that too."""
        self.end()
        self._stage = event.stage
        self._told = self._untold_seconds = 0.0
        self._send(messages.report(event))
        if event.stage in self._hand_over:
            self._hand_over.clear()
            self._send(messages.HandOver())

    def progress(self, event: events.Progress, resume: bytes | None) -> None:
        """Report every step; of other stages the first and the last progress, and one every second between."""
        stage, done, of = event.stage, event.done, event.of
        if any(row.name == stage and row.counts == STEP for row in self._stages):
            steps = count_steps(self._stages, self._request)
            step = count_steps(self._stages, self._request, stage) + done
            told = messages.Stepped(
                stage=stage, done=done, of=of, step=step, steps=steps, seconds=event.seconds, resume=resume
            )
            self._send(told)
            return
        self._untold_seconds += event.seconds
        now = time.monotonic()
        if resume is None and done != of and self._told and now - self._told < PROGRESS_EVERY:
            return
        self._send(messages.Progress(stage=stage, done=done, of=of, seconds=self._untold_seconds, resume=resume))
        self._told, self._untold_seconds = now, 0.0

    def end(self) -> None:
        """End the stage that lasts, if there is one."""
        if self._stage is None:
            return
        now = time.perf_counter()
        self.seconds[self._stage] = round(now - self._since, 4)
        self._since, self._stage = now, None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Count the time spent inside for no stage."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began
