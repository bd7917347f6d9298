"""Define what a worker reports about a job, in order: a tagged union whose `type` names the event.

An event does not contain its number: that is its position in the job's stream, assigned by the script that writes it.

A class has all of an event: its fields, and its `words` for people. What it changes is in `ltx_client.protocol.state`.
The engine sends those that derive from `Reported` as they are, and the worker publishes them.

A farm is upgraded machine by machine. A reader leaves out an event whose type it does not know, and takes the job's
stored state in its place; it ignores fields that it does not know. So what clients before stages show still comes as
they know it, with more fields: TextEncoded, Decoded, and Stepped for each step, with `step` and `steps`. What they
cannot show, StageBegan and the Progress of frames, has types of its own. Their workers' Stepped, which has no stage,
is read as the progress of `denoise`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    model_validator,
)

from ltx_client.protocol.clock import CLOCK
from ltx_client.protocol.file_names import RESULT_FILES, ResultFile
from ltx_client.protocol.validation import READING, Name, Sentence, parse_tagged
from ltx_models.families.stages import DENOISE

__all__ = [
    "LATEST",
    "MOST_STAGES",
    "Cancelled",
    "Claimed",
    "CutText",
    "CutTexts",
    "Decoded",
    "Delayed",
    "Done",
    "Event",
    "Failed",
    "Loading",
    "Previewed",
    "Progress",
    "Released",
    "Reported",
    "Result",
    "Resumed",
    "StageBegan",
    "StagePlan",
    "Stepped",
    "TextEncoded",
    "UnreadableEvent",
    "Uploading",
    "parse_event",
]

Count = Annotated[int, Field(ge=0, lt=2**63)]
Duration = Annotated[float, Field(ge=0, le=1e9)]
"""Seconds, with bounds that only damaged data exceeds, so that whatever is computed from it is a number."""
LATEST = 253_402_300_800
"""The end of the year 9999, in seconds since 1970."""
Moment = Annotated[float, Field(ge=0, lt=LATEST)]
"""Seconds since 1970."""
Fraction = Annotated[float, Field(ge=0, le=1)]
MOST_STAGES = 32
"""The most stages that a render may have."""


def _check_file_name(value: str, info: ValidationInfo) -> str:
    """Refuse a name that leads out of the storage's own folder.

    A name that was read from the broker passes: it is checked when the file is opened, so that one wrong name hides no
    job.
    """
    if info.context is READING or re.fullmatch("([0-9a-zA-Z][0-9a-zA-Z._-]{0,127})?", value):
        return value
    raise ValueError("it is not the name of a file in the storage's own folder")


FileName = Annotated[str, AfterValidator(_check_file_name)]


class _Event(BaseModel):
    """Base of all events.

    Attributes:
        at: Seconds since 1970, by the broker's clock.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    at: Moment = Field(default_factory=CLOCK.now)

    @property
    def words(self) -> tuple[str, ...]:
        """Return what happened, in words for people; those that are empty are left out."""
        raise NotImplementedError


class Reported(_Event):
    """Base of the events that the engine reports of a render."""


class StagePlan(BaseModel):
    """A stage of a render, as its worker's model family has it.

    Attributes:
        name: What StageBegan and Progress call it.
        label: What a person reads while it lasts.
        counts: What its progress counts, in the singular.
        of: How many of them there are, or None where that is unknown before.
    """

    model_config = ConfigDict(frozen=True)

    name: Name
    label: Sentence
    counts: Name
    of: Count | None = None


class Claimed(_Event):
    """A worker claimed the job: attempt number `attempt` began.

    Attributes:
        stages: The stages of its render, in order; empty from a worker before stages.
    """

    type: Literal["claimed"] = "claimed"
    attempt: Count
    worker: Name
    worker_name: Name
    stages: Annotated[tuple[StagePlan, ...], Field(max_length=MOST_STAGES)] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return f"attempt {self.attempt} begins on {self.worker_name}", f"({self.worker})"


class Loading(Reported):
    """The model is being loaded; `fraction` of it is done, 0 to 1."""

    type: Literal["loading"] = "loading"
    fraction: Fraction
    message: Sentence

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return self.message or "loading", f"{self.fraction:.0%}"


class CutText(BaseModel):
    """A prompt or negative prompt that is longer than what the text encoder reads of it.

    Attributes:
        text: "prompt" or "negative prompt".
        tokens: Its length in tokens.
        read: How many of them, from the first on, the text encoder reads.
    """

    model_config = ConfigDict(frozen=True)

    text: Sentence
    tokens: Count
    read: Count

    @property
    def sentence(self) -> str:
        """Return the event as a sentence for people."""
        return (
            f"the {self.text} has {self.tokens} tokens, of which the text encoder reads the first {self.read}: what"
            " comes after them has no effect"
        )


CutTexts = Annotated[tuple[CutText, ...], Field(max_length=8)]


class TextEncoded(Reported):
    """The prompt's embedding is ready; denoising begins.

    Attributes:
        cut: The texts that are longer than what the text encoder reads of them.
    """

    type: Literal["text_encoded"] = "text_encoded"
    cut: CutTexts = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return "the prompt is encoded", *(f"({text.sentence})" for text in self.cut)


class StageBegan(Reported):
    """A stage of the render began."""

    type: Literal["stage_began"] = "stage_began"
    stage: Name

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return (f"stage {self.stage} begins",)


class Progress(Reported):
    """A stage has come as far as `done` of `of`.

    Attributes:
        of: How many there are of what the stage counts, or None where that is unknown.
        seconds: How long it took since the last Progress of this stage, or since its begin.
    """

    type: Literal["progress"] = "progress"
    stage: Name
    done: Count
    of: Count | None = None
    seconds: Duration

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return f"{self.stage} {self.done}" + (f"/{self.of}" if self.of else ""), f"took {self.seconds:.2f} s"


class Stepped(Progress):
    """A step is done: the Progress of a stage that counts steps, one step further.

    Attributes:
        step: How many are done of those of all such stages, as clients before stages read it.
        steps: How many there are of them.
    """

    type: Literal["stepped"] = "stepped"  # type: ignore[assignment]  # another tag of the union
    stage: Name = DENOISE.name
    done: Count = 0
    step: Count
    steps: Count

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, data: Any) -> Any:
        """Fill in the stage of a Stepped that has none: those before stages came from denoising alone."""
        if isinstance(data, dict) and "stage" not in data:
            return {**data, "stage": DENOISE.name, "done": data.get("step"), "of": data.get("steps")}
        return data

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return f"step {self.step}/{self.steps}", f"took {self.seconds:.2f} s"


class Previewed(Reported):
    """A frame of the video as it is after `step` is stored at the job's preview key."""

    type: Literal["previewed"] = "previewed"
    step: Count

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return (f"a preview of step {self.step}",)


class Decoded(Reported):
    """The latents were decoded to frames; the MP4 is being written."""

    type: Literal["decoded"] = "decoded"
    frames: Count

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return (f"{self.frames} frames are decoded",)


class Uploading(_Event):
    """The MP4, `size` bytes, is being uploaded to the farm's storage."""

    type: Literal["uploading"] = "uploading"
    size: Count

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return (f"the MP4, {self.size:,} bytes, is uploaded to the storage",)


class Delayed(_Event):
    """The video is complete and stored on its worker, but cannot be delivered yet, for `reason`."""

    type: Literal["delayed"] = "delayed"
    reason: Sentence

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return "the MP4 waits on its worker:", self.reason


class Result(BaseModel):
    """The files of a job's result.

    Attributes:
        video: Name relative to the storage URL.
        sidecar: Name relative to the storage URL.
        size: The video's size in bytes.
        sha256: The video's SHA-256 in hex.
        poster: Name relative to the storage URL of a JPEG, the video's middle frame; None where there is none, as of
            older workers.
        poster_sha256: The poster's SHA-256 in hex; empty without a poster.
        link: A URL by which anybody can read the video for some days, if there is one. It is stored with the job's
            result only, never in an event or a snapshot, which are shown.
        poster_link: The same of the poster.
    """

    model_config = ConfigDict(frozen=True)

    video: FileName
    sidecar: FileName
    size: Count
    sha256: FileName
    poster: FileName | None = None
    poster_sha256: FileName = ""
    link: str | None = Field(default=None, exclude=True, repr=False)
    poster_link: str | None = Field(default=None, exclude=True, repr=False)

    @property
    def files(self) -> dict[ResultFile, str]:
        """Return the name of each file that the result has, relative to the storage URL."""
        names = {kind: getattr(self, kind.field) for kind in RESULT_FILES}
        return {kind: name for kind, name in names.items() if name is not None}

    @property
    def links(self) -> dict[str, str | None]:
        """Return the files' download links by their fields, which are excluded from what is shown."""
        return {kind.link: getattr(self, kind.link) for kind in RESULT_FILES if kind.link}

    def without(self, kind: ResultFile) -> Result:
        """Return the same without a file that is optional."""
        return self.model_copy(
            update={name: type(self).model_fields[name].default for name in (kind.field, kind.sha256)}
        )


class Done(_Event):
    """The result is committed."""

    type: Literal["done"] = "done"
    result: Result

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return f"done: {self.result.video}, {self.result.size:,} bytes,", f"SHA-256 {self.result.sha256}"


class Failed(_Event):
    """The job ended without a result; `error` says why, in a sentence or two."""

    type: Literal["failed"] = "failed"
    error: Sentence

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return "failed:", self.error


class Cancelled(_Event):
    """The job ended because somebody asked for it."""

    type: Literal["cancelled"] = "cancelled"

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return ("cancelled",)


class Resumed(Reported):
    """An attempt after the first continues after `step`; 0 means from the beginning, for a `reason` if there is one.

    Attributes:
        step: How many of what the stage counts are done.
        stage: The stage that continues.
    """

    type: Literal["resumed"] = "resumed"
    step: Count
    reason: Sentence | None = None
    stage: Name = DENOISE.name

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        where = "step" if self.stage == DENOISE.name else self.stage
        return f"continues after {where} {self.step}", f"({self.reason})" if self.reason else ""


class Released(_Event):
    """The job was requeued unfinished, by its worker or by the reaper."""

    type: Literal["released"] = "released"
    reason: Sentence

    @property
    def words(self) -> tuple[str, ...]:
        """Return the event in words for people."""
        return "given back:", self.reason


Event = (
    Claimed
    | Loading
    | TextEncoded
    | StageBegan
    | Progress
    | Stepped
    | Previewed
    | Decoded
    | Uploading
    | Delayed
    | Done
    | Failed
    | Cancelled
    | Resumed
    | Released
)

_adapter: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


class UnreadableEvent(Exception):
    """An event is damaged; the message says how, in a sentence."""


def parse_event(data: bytes | str) -> Event | None:
    """Return the event in `data`, or None if its type belongs to a newer protocol.

    Raises:
        UnreadableEvent: The data is damaged.
    """
    try:
        return parse_tagged(_adapter, data)
    except ValueError as error:
        raise UnreadableEvent(f"an event is damaged ({error})") from error
