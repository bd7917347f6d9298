"""Define the state of a job: which transitions exist, and how each event changes it. Pure; shared by both sides.

What is shown of a running job follows from its `stages`. A farm is upgraded machine by machine, so a state also says it
as clients before stages read it: `stage` is one of their words, `step` and `steps` are of all stages that count steps.
The stages of a state that lacks them are made from those three.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ltx_client.protocol import events
from ltx_client.protocol.events import (
    MOST_STAGES,
    Count,
    CutTexts,
    Duration,
    Event,
    Fraction,
    Moment,
    Result,
    StagePlan,
)
from ltx_client.protocol.jobs import NewerVersion, UnreadableJob
from ltx_client.protocol.validation import READING, Name, Sentence, first_error
from ltx_client.protocol.versions.newer import newer_parts, shown_place
from ltx_models.families.stages import DECODE, DENOISE, LTXV_STAGES, STEP, TEXT

__all__ = [
    "ENDED",
    "RESULT_TTL",
    "TRANSITIONS",
    "Snapshot",
    "Stage",
    "StageState",
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
    """What a running job is doing now, in the words that every client knows: a reader refuses others.

    A stage of a model family has the word of the last one before it that has one.
    """

    WAITING = "waiting"
    LOADING = "loading the model"
    TEXT = "encoding the prompt"
    DENOISING = "denoising"
    DECODING = "decoding"
    WRITING = "writing the MP4"
    UPLOADING = "uploading"
    ENDED = "ended"


_WORDS = {TEXT.name: Stage.TEXT, DENOISE.name: Stage.DENOISING, DECODE.name: Stage.DECODING}


class StageState(StagePlan):
    """How far a stage has come.

    Attributes:
        done: How many of what it counts are done.
        seconds: The moving average of what one of them takes in this attempt.
    """

    done: Count = 0
    seconds: Duration | None = None

    @property
    def left(self) -> float | None:
        """Return the seconds that the rest of it takes at its pace, or None where that is unknown."""
        if self.of is None:
            return None
        if self.done >= self.of:
            return 0.0
        return None if self.seconds is None else (self.of - self.done) * self.seconds


_OLDER_STAGES = tuple(StageState(name=row.name, label=row.label, counts=row.counts) for row in LTXV_STAGES)
"""The stages of every render before there were others."""


class Snapshot(BaseModel):
    """A job's state after `seq` events. Times are seconds since 1970, durations seconds.

    Attributes:
        stage: What it is doing, as clients before stages read it.
        stages: The stages of its render, in order; empty before its first attempt.
        stage_name: The stage that it is at; None while it waits, loads or is delivered.
        step: How many steps are done, of all stages that count steps.
        steps: How many there are.
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
    stages: Annotated[tuple[StageState, ...], Field(max_length=MOST_STAGES)] = ()
    stage_name: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, data: Any) -> Any:
        """Fill in the stages of a state that was written before stages, where it has come to its first step."""
        if not isinstance(data, dict) or data.get("stages") or not data.get("steps"):
            return data
        told = {"of": data["steps"], "done": data.get("step", 0), "seconds": data.get("step_seconds")}
        stages = [stage.model_dump() | (told if stage.name == DENOISE.name else {}) for stage in _OLDER_STAGES]
        word = data.get("stage")
        return {**data, "stages": stages, "stage_name": next((name for name in _WORDS if _WORDS[name] == word), None)}

    @property
    def current(self) -> StageState | None:
        """Return the stage that it is at, if it is at one."""
        return next((stage for stage in self.stages if stage.name == self.stage_name), None)

    @property
    def counted(self) -> StageState | None:
        """Return the stage that a bar is to show: the one that it is at, or else the last one that has progress."""
        if self.current is not None and self.current.of:
            return self.current
        return next((stage for stage in reversed(self.stages) if stage.of and stage.done), None)

    @property
    def doing(self) -> str:
        """Return what it is doing, in words for people."""
        return self.current.label if self.current else self.stage.value

    @property
    def left(self) -> float | None:
        """Return the seconds that this stage and those after it take, as far as their paces are known.

        None while the pace of one of them that counts steps is unknown: the others say nothing of most of the time.
        """
        if self.current is None:
            return None
        rest = self.stages[self.stages.index(self.current) :]
        if any(stage.left is None for stage in rest if stage.counts == STEP):
            return None
        known = [stage.left for stage in rest if stage.left is not None]
        return sum(known) if known else None

    @property
    def position(self) -> tuple[int, int]:
        """Return how far its render has come: the number of the stage, and the steps done of it. Greater is further.

        Within a stage that counts no steps nothing is further: when its progress is told depends on the machine.
        """
        reached = [
            (number, stage.done if stage.counts == STEP else 0)
            for number, stage in enumerate(self.stages)
            if stage.done or stage.name == self.stage_name
        ]
        return max(reached, default=(0, 0))

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
                **_with_stages(_planned(state.stages, event.stages)),
                "step_seconds": None,
            }
        case events.Resumed():
            stages = _set_back(state.stages or _OLDER_STAGES, event.stage, event.step)
            lost = _steps(state.stages) - _steps(stages)
            return {**_with_stages(stages), "lost_steps": state.lost_steps + lost}
        case events.Loading():
            loaded = event.fraction >= 1
            return {
                "stage": Stage.TEXT if loaded else Stage.LOADING,
                "stage_name": None,
                "fraction": event.fraction,
                "message": None if loaded else event.message,
            }
        case events.TextEncoded():
            known = {"message": None, "fraction": None, "cut": event.cut}
            stages = state.stages or _OLDER_STAGES
            return {**known, "stages": stages, **_at(stages, _following(stages, TEXT.name))}
        case events.StageBegan():
            return {"message": None, "fraction": None, **_at(state.stages, event.stage)}
        case events.Progress():
            return _progressed(state.stages or _OLDER_STAGES, event)
        case events.Previewed():
            return {"preview_step": event.step}
        case events.Decoded():
            return {"stage": Stage.WRITING, "stage_name": None}
        case events.Uploading():
            return {"stage": Stage.UPLOADING, "message": None}
        case events.Delayed():
            return {"stage": Stage.UPLOADING, "message": f"waiting to be delivered: {event.reason}"}
        case events.Done():
            return {"status": Status.DONE, **_ENDED, "ended_at": event.at, "result": event.result}
        case events.Failed():
            return {"status": Status.FAILED, **_ENDED, "ended_at": event.at, "error": event.error}
        case events.Cancelled():
            return {"status": Status.CANCELLED, **_ENDED, "ended_at": event.at}
        case events.Released():
            return {**_NO_WORKER, "status": Status.QUEUED, "stage": Stage.WAITING, "message": event.reason}


_ENDED: dict[str, object] = {"stage": Stage.ENDED, "stage_name": None}
_NO_WORKER: dict[str, object] = {
    "worker": None,
    "worker_name": None,
    "message": None,
    "fraction": None,
    "stage_name": None,
    "step_seconds": None,
}


def _planned(before: Sequence[StageState], plan: Iterable[StagePlan]) -> tuple[StageState, ...]:
    """Return the stages of a new attempt, whose paces are unknown; what earlier ones did stands until it resumes."""
    done = {stage.name: stage.done for stage in before}
    rows = tuple(plan) or before
    return tuple(
        StageState(name=row.name, label=row.label, counts=row.counts, of=row.of, done=done.get(row.name, 0))
        for row in rows
    )


def _set_back(stages: Sequence[StageState], name: str, done: int) -> tuple[StageState, ...]:
    """Return the stages of a render that continues in one of them, or from the beginning if that is unknown."""
    place = next((number for number, stage in enumerate(stages) if stage.name == name), -1)
    after = tuple(stage.model_copy(update={"done": 0}) for stage in stages[place + 1 :])
    return after if place < 0 else (*stages[:place], stages[place].model_copy(update={"done": done}), *after)


def _progressed(stages: Sequence[StageState], event: events.Progress) -> dict[str, object]:
    """Return the changes of a progress.

    A stage that is complete is followed by the next one: workers before stages do not tell that it begins.
    """
    place = next((number for number, stage in enumerate(stages) if stage.name == event.stage), None)
    if place is None:
        return _at(stages, event.stage)
    before = stages[place]
    of = before.of if event.of is None else event.of
    news = 1 if isinstance(event, events.Stepped) else max(1, event.done - before.done)
    now = before.model_copy(
        update={"done": event.done, "of": of, "seconds": _smoothed(before.seconds, event.seconds / news)}
    )
    after = (*stages[:place], now, *stages[place + 1 :])
    name = event.stage if of is None or event.done < of else _following(after, event.stage)
    changes: dict[str, object] = {**_with_stages(after), **_at(after, name)}
    return changes | ({"step_seconds": now.seconds} if now.counts == STEP else {})


def _following(stages: Sequence[StageState], name: str) -> str:
    """Return the name of the stage after one, or of the last one itself."""
    names = [stage.name for stage in stages]
    return names[min(names.index(name) + 1, len(names) - 1)] if name in names else name


def _at(stages: Sequence[StageState], name: str) -> dict[str, object]:
    """Return the changes when a stage begins."""
    names = [stage.name for stage in stages]
    until = names[: names.index(name) + 1] if name in names else [name]
    word = next((_WORDS[each] for each in reversed(until) if each in _WORDS), Stage.DENOISING)
    return {"stage_name": name, "stage": word}


def _with_stages(stages: tuple[StageState, ...]) -> dict[str, object]:
    """Return the changes of all that follows from the stages."""
    lengths = [stage.of for stage in stages if stage.counts == STEP]
    steps = None if None in lengths or not lengths else sum(of for of in lengths if of is not None)
    return {"stages": stages, "step": _steps(stages), "steps": steps}


def _steps(stages: Iterable[StageState]) -> int:
    return sum(stage.done for stage in stages if stage.counts == STEP)


def _smoothed(mean: float | None, value: float) -> float:
    """Return an exponential moving average: what the next steps will take, rather than what the first one took."""
    return value if mean is None else mean + STEP_SMOOTHING * (value - mean)
