"""The messages between the worker and its engine, one a frame, over two pipes: JSON, and beside it a message's bytes.

A field of bytes is a `Blob`: in the JSON, its place among the frame's blobs stands for it. What an engine reports of a
render is an event of the job (`ltx_client.protocol.events.Reported`), sent as it is, or with what is for the worker
alone.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    TypeAdapter,
    ValidationInfo,
)

from ltx_client.protocol import events
from ltx_client.protocol.events import Count, Event, Reported, StageBegan
from ltx_client.protocol.events import Resumed as Resuming
from ltx_models.errors import FaultKind, MachineFault
from ltx_models.request import GenerationRequest
from ltx_models.schedulers import SchedulerConfig
from ltx_worker.engine.packing.frames import read_frame, write_frame

if TYPE_CHECKING:
    from ltx_models.events import Report

__all__ = [
    "Blob",
    "Command",
    "Decoded",
    "Encode",
    "Faulty",
    "HandOver",
    "Load",
    "Loading",
    "Message",
    "Previewed",
    "Progress",
    "Ready",
    "Refused",
    "Render",
    "Resuming",
    "StageBegan",
    "Stepped",
    "Stop",
    "StopWriting",
    "Stopped",
    "TextEncoded",
    "Unwritten",
    "Written",
    "event_of",
    "receive_command",
    "receive_message",
    "report",
    "send",
]


def _find(value: object, info: ValidationInfo) -> object:
    """Return the blob that a place stands for; outside of a frame, the value itself."""
    blobs: list[bytes] | None = info.context
    if blobs is None:
        return value
    if type(value) is int and 0 <= value < len(blobs):
        return blobs[value]
    raise ValueError("it is not the place of one of the frame's blobs")


def _place(value: bytes, info: SerializationInfo) -> Any:
    """Put bytes among the frame's blobs, and return their place; outside of a frame, the bytes."""
    blobs: list[bytes] | None = info.context
    if blobs is None:
        return value
    blobs.append(value)
    return len(blobs) - 1


Blob = Annotated[bytes, BeforeValidator(_find), PlainSerializer(_place)]
"""Bytes that lie beside a message's JSON."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Told(_Frozen):
    """Base of the job's events that have no time here: the worker sets it when it publishes them."""

    at: float = 0.0


class Load(_Frozen):
    """Load the model now, so that it is in memory when the first render begins."""

    type: Literal["load"] = "load"


class Render(_Frozen):
    """Render `request` into the MP4 `output`.

    Attributes:
        checkpoint_every: steps between two previews; 0 for none.
        job: the digest of the job, which is stored in its resume points.
        resume: the resume point that a Stepped of an earlier attempt carried.
        embeddings: of texts that need no encoding, as an engine with the same `embeds_by` sent them in a TextEncoded.
        save_every: the least number of seconds between two Stepped that carry a resume point.
    """

    type: Literal["render"] = "render"
    request: GenerationRequest
    checkpoint_every: int
    output: Path
    job: str = ""
    resume: Blob | None = None
    embeddings: dict[str, Blob] = Field(default_factory=dict)
    save_every: float = 0.0


class Encode(_Frozen):
    """Encode texts of the next render during the current render's decode.

    It has no effect unless the text encoder is in memory and has room. A later Encode replaces this one.
    """

    type: Literal["encode"] = "encode"
    texts: list[str]


class Stop(_Frozen):
    """End the current render, if any, at the next step."""

    type: Literal["stop"] = "stop"


class StopWriting(_Frozen):
    """Stop writing the MP4 `output`, if it is not complete yet."""

    type: Literal["stop_writing"] = "stop_writing"
    output: Path


Command = Load | Render | Encode | Stop | StopWriting


class Loading(_Told, events.Loading):
    """Reports that `fraction` of the model, 0 to 1, is loaded."""


class Ready(_Frozen):
    """Reports that the model is loaded.

    Attributes:
        device: "gpu" or "cpu".
        checkpoint_hash: the SHA-256 of the checkpoint.
        mlx: the version of MLX.
        embeds_by: the digest of everything besides the text that its text embeddings depend on.
    """

    type: Literal["ready"] = "ready"
    device: str
    checkpoint_hash: str
    mlx: str
    embeds_by: str


class TextEncoded(_Told, events.TextEncoded):
    """Reports that the embeddings of the render's texts are ready.

    Attributes:
        fresh: the embeddings of the texts that were encoded for this render.
        ahead: how many of them were encoded during the previous render.
    """

    fresh: dict[str, Blob] = Field(default_factory=dict)
    ahead: int = 0


class Progress(_Told, events.Progress):
    """Reports how far a stage has come.

    Attributes:
        resume: the resume point from which another attempt can continue, or None if none was made.
    """

    resume: Blob | None = None


class Stepped(events.Stepped, Progress):
    """Reports the progress of a stage that counts steps."""

    at: float = 0.0


class Previewed(_Told, events.Previewed):
    """Carries a frame as it is after `step`."""

    jpeg: Blob


class HandOver(_Frozen):
    """Reports that the render needs the GPU no more for itself alone: the next job may be claimed meanwhile."""

    type: Literal["hand_over"] = "hand_over"


class Decoded(_Told, events.Decoded):
    """Reports that all frames are decoded, which ends a render; its MP4 is written during the next one.

    Attributes:
        seconds: how long each stage took.
        peak_memory: bytes.
        waited: seconds between the end of the previous render and the start of this one.
        request: the resolved request, as it was rendered, with local paths of its pictures and clips.
        scheduler: what chose the timesteps; None where the request has its own.
    """

    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory: int = 0
    waited: float | None = None
    request: GenerationRequest | None = None
    scheduler: SchedulerConfig | None = None


class Written(_Frozen):
    """Reports that the MP4 `output` is complete, `seconds` after its frames were decoded.

    Attributes:
        poster: the SHA-256 of the poster in the same folder (`ltx_client.protocol.file_names.POSTER`); empty if none
            could be made.
    """

    type: Literal["written"] = "written"
    output: Path
    size: Count
    sha256: str
    seconds: float
    poster: str = ""


class Unwritten(_Frozen):
    """Reports that the MP4 `output` was not written.

    Attributes:
        error: why, in a sentence.
        kind: the machine's fault, if that is the reason.
    """

    type: Literal["unwritten"] = "unwritten"
    output: Path
    error: str
    kind: FaultKind | None = None


class Stopped(_Frozen):
    """Reports that the render ended because it was stopped."""

    type: Literal["stopped"] = "stopped"


class Refused(_Frozen):
    """Reports that the render or the load was refused, and why, in a sentence."""

    type: Literal["refused"] = "refused"
    error: str


class Faulty(_Frozen):
    """Reports that the render or the load failed because of the machine.

    Attributes:
        error: why, in a sentence.
        kind: what is wrong with the machine.
        confirmed: whether the render cannot have caused it, as when the load failed.
    """

    type: Literal["faulty"] = "faulty"
    error: str
    kind: FaultKind
    confirmed: bool = False

    @property
    def fault(self) -> MachineFault:
        """Return the fault as an error."""
        return MachineFault(self.error, self.kind, confirmed=self.confirmed)


_OWN = (
    Loading,
    TextEncoded,
    Progress,
    Stepped,
    Previewed,
    HandOver,
    Decoded,
    Ready,
    Written,
    Unwritten,
    Stopped,
    Refused,
    Faulty,
)
_AS_THEY_ARE = tuple(
    kind for kind in get_args(Event) if issubclass(kind, Reported) and not any(issubclass(own, kind) for own in _OWN)
)

Message = Reported | HandOver | Ready | Written | Unwritten | Stopped | Refused | Faulty

_commands: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])
_Any: Any = Union[(*_OWN, *_AS_THEY_ARE)]
_messages: TypeAdapter[Message] = TypeAdapter(Annotated[_Any, Field(discriminator="type")])


def report(event: Report) -> Message:
    """Return the message that tells a job's watchers of a render's event: the wire's event of the same name."""
    kind = next(kind for kind in _AS_THEY_ARE if kind.__name__ == type(event).__name__)
    message: Message = kind(**vars(event))
    return message


def event_of(message: Message) -> Event | None:
    """Return the job's event that a message is, without what is for the worker alone; None if it is none.

    Its time is that of the call, by the worker's clock.
    """
    kinds: list[Any] = [kind for kind in type(message).__mro__ if kind in get_args(Event)]
    if not kinds:
        return None
    event: Event = kinds[0](**{name: getattr(message, name) for name in kinds[0].model_fields if name != "at"})
    return event


def send(pipe: Connection, message: Command | Message, *, patience: float | None = None) -> None:
    """Write one message.

    Args:
        pipe: the pipe's end.
        message: the message.
        patience: seconds for which the other side may read nothing, where the pipe's end does not block; None for any
            time.

    Raises:
        BadFrame: it is too large.
        OSError: the other side is gone, or has read nothing for too long (TimeoutError).
    """
    blobs: list[bytes] = []
    head = message.model_dump_json(context=blobs).encode()
    write_frame(pipe, head, blobs, patience=patience)


def receive_command(pipe: Connection) -> Command:
    """Return the next command.

    Raises:
        EOFError: the worker is gone.
    """
    head, blobs = read_frame(pipe)
    return _commands.validate_json(head, context=blobs)


def receive_message(pipe: Connection) -> Message:
    """Return the engine's next message.

    Raises:
        EOFError: the engine is gone.
        ValueError: it is no message.
    """
    head, blobs = read_frame(pipe)
    return _messages.validate_json(head, context=blobs)
