"""Define the state of a job: which transitions exist, and how each event changes it. Pure; shared by both sides."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltx_client.protocol import events
from ltx_client.protocol.events import Count, CutTexts, Duration, Event, Fraction, Moment, Result
from ltx_client.protocol.jobs import NewerVersion, UnreadableJob
from ltx_client.protocol.validation import READING, Name, Sentence, first_error
from ltx_client.protocol.versions.newer import newer_parts, shown_place

__all__ = [
    "ENDED",
    "RESULT_TTL",
    "TRANSITIONS",
    "Snapshot",
    "Stage",
    "Status",
    "apply",
    "parse_snapshot",
    "sources_of",
]

RESULT_TTL = 7 * 24 * 3600
"""Seconds for which a job's keys are kept after its end."""

STEP_SMOOTHING = 0.3
"""The weight of the newest step in the moving average of their durations."""


class Status(StrEnum):
    """The states of a job's life."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
    # to RUNNING again: a new attempt, after the last one's lease lapsed
    Status.RUNNING: frozenset(
        {Status.RUNNING, Status.QUEUED, Status.DONE, Status.FAILED, Status.CANCELLED},
    ),
    Status.DONE: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""The state machine. The ledger's scripts receive the rows that concern them."""

ENDED = frozenset(status for status, targets in TRANSITIONS.items() if not targets)


def sources_of(target: Status) -> frozenset[Status]:
    """Return the states from which a job may change to `target`."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)


class Stage(StrEnum):
    """What a running job is doing now."""

    WAITING = "waiting"
    LOADING = "loading the model"
    TEXT = "encoding the prompt"
    DENOISING = "denoising"
    DECODING = "decoding"
    WRITING = "writing the MP4"
    UPLOADING = "uploading"
    ENDED = "ended"


class Snapshot(BaseModel):
    """A job's state after `seq` events. Times are seconds since 1970, durations seconds.

    Attributes:
        step_seconds: The moving average of this attempt's step durations.
        lost_steps: Steps that were rendered twice, since an attempt ended early.
        cut: The texts that are longer than what the text encoder reads of them.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    status: Status = Status.QUEUED
    seq: Count = 0
    attempt: Count = 0
    worker: Name | None = None
    worker_name: Name | None = None
    stage: Stage = Stage.WAITING
    message: Sentence | None = None
    fraction: Fraction | None = None
    step: Count = 0
    steps: Count | None = None
    step_seconds: Duration | None = None
    lost_steps: Annotated[int, Field(gt=-(2**63), lt=2**63)] = 0
    preview_step: Count | None = None
    started_at: Moment | None = None
    updated_at: Moment | None = None
    ended_at: Moment | None = None
    error: Sentence | None = None
    result: Result | None = None
    cut: CutTexts = ()

    @property
    def took(self) -> float | None:
        """Return the seconds from the beginning of the first attempt to the job's end; None if it has not ended."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, self.ended_at - self.started_at)

    @property
    def ended(self) -> bool:
        """Return whether the state can no longer change."""
        return self.status in ENDED


def parse_snapshot(data: bytes | str | None) -> Snapshot:
    """Return the stored state of a job; the state of a new job if nothing is stored.

    Raises:
        NewerVersion: The state has words that this version does not know.
        UnreadableJob: The state is damaged.
    """
    try:
        return Snapshot() if data is None else Snapshot.model_validate_json(data, context=READING)
    except ValidationError as error:
        if places := newer_parts(error):
            raise NewerVersion(
                f"a newer version has written its state ({shown_place(places[0])} has a word that is unknown to this"
                " one); upgrade the older side (the worker or client)"
            ) from error
        raise UnreadableJob(f"its state is damaged, or of a newer version ({first_error(error)})") from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise UnreadableJob(f"its state is damaged ({type(error).__name__})") from error


def apply(state: Snapshot, event: Event) -> Snapshot:
    """Return the state after one more event."""
    return state.model_copy(update={**_changes(state, event), "seq": state.seq + 1, "updated_at": event.at})


def _changes(state: Snapshot, event: Event) -> dict[str, object]:
    match event:
        case events.Claimed():
            return {
                **_NO_WORKER,
                "status": Status.RUNNING,
                "stage": Stage.LOADING,
                "attempt": event.attempt,
                "worker": event.worker,
                "worker_name": event.worker_name,
                "started_at": state.started_at or event.at,
            }
        case events.Resumed():
            return {"step": event.step, "lost_steps": state.lost_steps + state.step - event.step}
        case events.Loading():
            loaded = event.fraction >= 1
            return {
                "stage": Stage.TEXT if loaded else Stage.LOADING,
                "fraction": event.fraction,
                "message": None if loaded else event.message,
            }
        case events.TextEncoded():
            return {"stage": Stage.DENOISING, "message": None, "fraction": None, "cut": event.cut}
        case events.Stepped():
            return {
                "stage": Stage.DECODING if event.step == event.steps else Stage.DENOISING,
                "step": event.step,
                "steps": event.steps,
                "step_seconds": _smoothed(state.step_seconds, event.seconds),
            }
        case events.Previewed():
            return {"preview_step": event.step}
        case events.Decoded():
            return {"stage": Stage.WRITING}
        case events.Uploading():
            return {"stage": Stage.UPLOADING, "message": None}
        case events.Delayed():
            return {"stage": Stage.UPLOADING, "message": f"waiting to be delivered: {event.reason}"}
        case events.Done():
            return {"status": Status.DONE, "stage": Stage.ENDED, "ended_at": event.at, "result": event.result}
        case events.Failed():
            return {"status": Status.FAILED, "stage": Stage.ENDED, "ended_at": event.at, "error": event.error}
        case events.Cancelled():
            return {"status": Status.CANCELLED, "stage": Stage.ENDED, "ended_at": event.at}
        case events.Released():
            return {**_NO_WORKER, "status": Status.QUEUED, "stage": Stage.WAITING, "message": event.reason}


_NO_WORKER: dict[str, object] = {
    "worker": None,
    "worker_name": None,
    "message": None,
    "fraction": None,
    "step_seconds": None,
}


def _smoothed(mean: float | None, value: float) -> float:
    """Return an exponential moving average: what the next steps will take, rather than what the first one took."""
    return value if mean is None else mean + STEP_SMOOTHING * (value - mean)
