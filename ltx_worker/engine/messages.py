"""What the worker and its engine say to each other: JSON, one message a frame, over two pipes."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ltx_client.protocol.events import Count, CutTexts
from ltx_models.errors import FaultKind, MachineFault
from ltx_models.request import GenerationRequest

__all__ = [
    "Command",
    "Decoded",
    "Encode",
    "Faulty",
    "Load",
    "Loading",
    "Message",
    "Previewed",
    "Ready",
    "Refused",
    "Render",
    "Resuming",
    "Stepped",
    "Stop",
    "StopWriting",
    "Stopped",
    "TextEncoded",
    "Unwritten",
    "Written",
    "receive_command",
    "receive_message",
    "send",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class Load(_Frozen):
    """Load the model now, so that the first render finds it warm."""

    type: Literal["load"] = "load"


class Render(_Frozen):
    """Render `request` into the MP4 `output`; a preview every `checkpoint_every` steps, 0 for none.

    job: the digest of the job, which goes with what is saved of it.
    resume: what a Stepped of an earlier attempt carried.  save_every: seconds, at least, between two Stepped that
    carry it.  embeddings: of texts that need no encoding, as a TextEncoded of an engine with the same `embeds_by` has
    carried them.
    """

    type: Literal["render"] = "render"
    request: GenerationRequest
    checkpoint_every: int
    output: Path
    job: str = ""
    resume: bytes | None = None
    embeddings: dict[str, bytes] = Field(default_factory=dict)
    save_every: float = 0.0


class Encode(_Frozen):
    """Encode these texts of the next render beside the decode of the one in hand, if the text encoder is in memory and
    has room; else nothing happens. Another one before that takes its place.
    """

    type: Literal["encode"] = "encode"
    texts: list[str]


class Stop(_Frozen):
    """End the render in hand, if there is one, at the next step."""

    type: Literal["stop"] = "stop"


class StopWriting(_Frozen):
    """Leave the MP4 `output` unfinished, if it is not complete yet."""

    type: Literal["stop_writing"] = "stop_writing"
    output: Path


Command = Load | Render | Encode | Stop | StopWriting


class Loading(_Frozen):
    """`fraction` of the model is loaded, 0 to 1."""

    type: Literal["loading"] = "loading"
    fraction: float
    message: str


class Ready(_Frozen):
    """The model is loaded: on which device, from a checkpoint of which SHA-256, by which version of MLX.

    embeds_by: what its text embeddings depend on besides the text, as a digest.
    """

    type: Literal["ready"] = "ready"
    device: str
    checkpoint_hash: str
    mlx: str
    embeds_by: str


class Resuming(_Frozen):
    """The render goes on after `step`; 0 is from the beginning, because the resume point was refused for `reason`."""

    type: Literal["resuming"] = "resuming"
    step: Count
    reason: str | None = None


class TextEncoded(_Frozen):
    """The text's embeddings are ready.

    fresh: of the texts that were encoded for it.  ahead: how many of them beside the render before.  cut: the texts
    that are longer than what the text encoder reads of them.
    """

    type: Literal["text_encoded"] = "text_encoded"
    fresh: dict[str, bytes] = Field(default_factory=dict)
    ahead: int = 0
    cut: CutTexts = ()


class Stepped(_Frozen):
    """Step `step` of `steps` is done; it took `seconds`. `resume`: what another attempt needs to go on from here."""

    type: Literal["stepped"] = "stepped"
    step: Count
    steps: Count
    seconds: float
    resume: bytes | None = None


class Previewed(_Frozen):
    """A frame as it stands after `step`."""

    type: Literal["previewed"] = "previewed"
    step: Count
    jpeg: bytes


class Decoded(_Frozen):
    """The frames exist: the end of a render, but for its MP4, which is written beside the next one.

    seconds: how long each phase took.  peak_memory: bytes.  waited: seconds between the end of the last render and this
    one's beginning.
    """

    type: Literal["decoded"] = "decoded"
    frames: Count
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory: int = 0
    waited: float | None = None


class Written(_Frozen):
    """The MP4 `output` is complete, `seconds` after its frames existed."""

    type: Literal["written"] = "written"
    output: Path
    size: Count
    sha256: str
    seconds: float


class Unwritten(_Frozen):
    """The MP4 `output` will not be: why, in a sentence. kind: what is wrong with the machine, if that is why."""

    type: Literal["unwritten"] = "unwritten"
    output: Path
    error: str
    kind: FaultKind | None = None


class Stopped(_Frozen):
    """The render ended because it was told to."""

    type: Literal["stopped"] = "stopped"


class Refused(_Frozen):
    """The render, or the load, cannot be done: `error` is a sentence."""

    type: Literal["refused"] = "refused"
    error: str


class Faulty(_Frozen):
    """The render, or the load, cannot be done on this machine: why, in a sentence, and what is wrong with it.

    confirmed: whether the render has no part in that, as when it is the load.
    """

    type: Literal["faulty"] = "faulty"
    error: str
    kind: FaultKind
    confirmed: bool = False

    @property
    def fault(self) -> MachineFault:
        """The same as an error."""
        return MachineFault(self.error, self.kind, confirmed=self.confirmed)


Message = (
    Loading
    | Ready
    | Resuming
    | TextEncoded
    | Stepped
    | Previewed
    | Decoded
    | Written
    | Unwritten
    | Stopped
    | Refused
    | Faulty
)

_commands: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])
_messages: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def send(pipe: Connection, message: Command | Message) -> None:
    """Writes one message. Raises OSError when the other side is gone."""
    pipe.send_bytes(message.model_dump_json().encode())


def receive_command(pipe: Connection) -> Command:
    """The next command. Raises EOFError when the worker is gone."""
    return _commands.validate_json(pipe.recv_bytes())


def receive_message(pipe: Connection) -> Message:
    """The engine's next message. Raises EOFError when it is gone."""
    return _messages.validate_json(pipe.recv_bytes())
