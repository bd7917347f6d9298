"""What the model library raises.

    ModelError
    ├── InvalidRequest    a value of a GenerationRequest is wrong (also a ValueError)
    │   └── ResumeMismatch    a resume point is of another request
    ├── UnknownVariant    no row of the variant table has that name (also a ValueError)
    ├── CheckpointError   a file is not the checkpoint that was expected
    ├── DownloadError     a model's files could not be fetched
    │   └── HubUnreachable    because the hub does not answer
    ├── MediaError        a picture or a clip cannot be read
    ├── OutOfMemory       there is not enough memory, even for the smallest pieces
    └── VideoError        frames could not be encoded

Every message is one sentence or two: what is wrong, with what, and what would be right.
"""

__all__ = [
    "CheckpointError",
    "DownloadError",
    "HubUnreachable",
    "InvalidRequest",
    "MediaError",
    "ModelError",
    "OutOfMemory",
    "ResumeMismatch",
    "UnknownVariant",
    "VideoError",
]


class ModelError(Exception):
    """Base of every error that `ltx_models` raises on purpose."""


class InvalidRequest(ModelError, ValueError):
    """A value that no variant, or not this one, can render."""


class ResumeMismatch(InvalidRequest):
    """A resume point is not of this request."""


class UnknownVariant(ModelError, ValueError):
    """A variant name that is not in the table."""


class CheckpointError(ModelError):
    """A checkpoint file that is missing, damaged, or of another model."""


class DownloadError(ModelError):
    """Files of a model that could not be fetched, or are not what the hub says they are."""


class HubUnreachable(DownloadError):
    """The hub does not answer, or answers with an error."""


class OutOfMemory(ModelError):
    """The machine has too little memory for this render."""


class VideoError(ModelError):
    """The encoder refused the frames or died."""


class MediaError(ModelError):
    """A picture or a clip that is missing, damaged, too large, or of a format that is not read."""
