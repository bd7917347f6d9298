"""The errors that the model library raises.

    ModelError
    ├── InvalidRequest    a value of a GenerationRequest is wrong (also a ValueError)
    │   └── ResumeMismatch    a resume point is damaged, or of another request or model
    ├── UnknownVariant    no row of the variant table has that name (also a ValueError)
    ├── DownloadError     a model's files could not be fetched
    │   └── HubUnreachable    because the hub does not answer
    ├── MediaError        a picture or a clip cannot be read
    └── MachineFault      this machine cannot do it now; another one may (see `ltx_models.machine_faults`)
        ├── CheckpointError   a file is not the checkpoint that was expected
        ├── OutOfMemory       there is not enough memory, even for the smallest pieces
        ├── NotFinite         NaN or infinite values came out
        └── VideoError        frames could not be encoded, or ffmpeg does not run

Every message is one sentence or two: what is wrong, with what, and what would be right.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "CheckpointError",
    "DownloadError",
    "FaultKind",
    "HubUnreachable",
    "InvalidRequest",
    "MachineFault",
    "MediaError",
    "ModelError",
    "NotFinite",
    "OutOfMemory",
    "ResumeMismatch",
    "UnknownVariant",
    "VideoError",
]


class FaultKind(StrEnum):
    """The kind of a fault: what a machine lacks, or what does not work on it."""

    SPACE = "space"
    ACCESS = "access"
    FOLDER = "folder"
    FILES = "files"
    DISK = "disk"
    MEMORY = "memory"
    GPU = "gpu"
    DISPLAY = "display"
    FFMPEG = "ffmpeg"
    MODEL = "model"
    SOFTWARE = "software"
    STORAGE = "storage"
    INPUT = "input"
    NUMBERS = "numbers"


class ModelError(Exception):
    """Base of every error that `ltx_models` raises on purpose."""


class InvalidRequest(ModelError, ValueError):
    """A value of a request that no variant, or not this variant, can render."""


class ResumeMismatch(InvalidRequest):
    """A resume point that is damaged, or of another request or model than those that it is used for."""


class UnknownVariant(ModelError, ValueError):
    """A variant name that is not in the table."""


class DownloadError(ModelError):
    """A file of a model that could not be fetched, or is not what the hub says it is."""


class HubUnreachable(DownloadError):
    """A download that failed because the hub does not answer, or answers with an error."""


class MediaError(ModelError):
    """A picture or a clip that is missing, damaged, too large, or of a format that is not read."""


class MachineFault(ModelError):
    """A fault of this machine, so that the same render may succeed on another one.

    Attributes:
        kind: What the machine lacks, or what does not work on it.
        confirmed: Whether the machine shows the fault without the render, so that the render is not its cause.
    """

    kind = FaultKind.SOFTWARE

    def __init__(self, message: str, kind: FaultKind | None = None, *, confirmed: bool = False) -> None:
        super().__init__(message)
        self.kind = kind or self.kind
        self.confirmed = confirmed


class CheckpointError(MachineFault):
    """A checkpoint file that is missing, damaged, or of another model."""

    kind = FaultKind.MODEL


class OutOfMemory(MachineFault):
    """A render that needs more memory than the machine has."""

    kind = FaultKind.MEMORY


class NotFinite(MachineFault):
    """A result that is NaN or infinite: a GPU's error, or numbers that overflow on every machine."""

    kind = FaultKind.NUMBERS


class VideoError(MachineFault):
    """An encoder that refused the frames, died, or cannot be started."""

    kind = FaultKind.FFMPEG
