"""What a render yields, in order: InputRead while pictures and clips are read, TextEncoded, then Stepped (and
Previewed) for each step, FramesDecoded for each part of the video, Decoded, Finished.

Everything is plain NumPy and PIL: what crosses this boundary can be stored, sent and read without MLX.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ltx_models.errors import VideoError
from ltx_models.files.output_files import MP4, writing
from ltx_models.request import GenerationRequest
from ltx_models.video import write_mp4

__all__ = [
    "Decoded",
    "Event",
    "Finished",
    "FramesDecoded",
    "InputRead",
    "Previewed",
    "PromptEmbeddings",
    "RenderResult",
    "ResumePoint",
    "Stepped",
    "TextEncoded",
]


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """The text as the transformer sees it: embeddings (1, N, D) float32, masks (1, N), 1 for a token, 0 for padding.

    The negative prompt's are None where guidance does not use it.
    """

    prompt: np.ndarray
    prompt_mask: np.ndarray
    negative: np.ndarray | None = None
    negative_mask: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """What the rest of a render needs: steps done, and the latents after them, (1, C, F, H, W) float32.

    extra: where pictures or clips are beside the video as tokens of their own, those too, (1, N, C) float32.
    """

    step: int
    latents: np.ndarray
    extra: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class RenderResult:
    """A finished video.

    frames: uint8 (F, H, W, 3).  latents: normalized, float32 (1, C, F, H, W).
    request: as it was rendered, with every value filled in, the seed too.
    """

    frames: np.ndarray
    latents: np.ndarray
    request: GenerationRequest

    def save(self, path: Path | str) -> None:
        """Write an MP4: whole or not at all, through links, and into devices and pipes. Raises VideoError."""
        assert self.request.frame_rate
        if why := MP4.why_not(Path(path)):
            raise VideoError(why)
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "video.mp4"
            write_mp4(self.frames, video, self.request.frame_rate)
            try:
                with video.open("rb") as whole, writing(Path(path)) as file:
                    shutil.copyfileobj(whole, file)
            except OSError as error:
                raise VideoError(f"cannot write {path}: {error.strerror or error}") from error


@dataclass(frozen=True, eq=False)
class InputRead:
    """`part` (0 to 1) of the picture or clip `number` of `count`, counted from 1, is read and prepared.

    kind: as of its `ConditioningItem`.  seconds: what of a clip is read, as in `3.96–5.00 s`; empty before it is known.
    """

    kind: str
    number: int
    count: int
    part: float
    seconds: str = ""


@dataclass(frozen=True, eq=False)
class TextEncoded:
    """The prompt and, if it is used, the negative prompt are embedded; another render can be given the embeddings."""

    embeddings: PromptEmbeddings


@dataclass(frozen=True, eq=False)
class Stepped:
    """Step `step` of `steps`, counted from 1, at `timestep` is done and took `seconds`."""

    step: int
    steps: int
    timestep: float
    seconds: float
    resume: ResumePoint


@dataclass(frozen=True, eq=False)
class Previewed:
    """What the middle of the video would look like if the render ended after `step`: a PIL RGB image."""

    step: int
    image: Image.Image


@dataclass(frozen=True, eq=False)
class FramesDecoded:
    """The frames from `start` on, uint8 (n, H, W, 3): each frame comes once, in order, while the next are decoded.

    They are a part of the array that Decoded has whole.
    """

    start: int
    frames: np.ndarray


@dataclass(frozen=True, eq=False)
class Decoded:
    """The frames, uint8 (F, H, W, 3)."""

    frames: np.ndarray


@dataclass(frozen=True, eq=False)
class Finished:
    """The last event."""

    result: RenderResult


Event = InputRead | TextEncoded | Stepped | Previewed | FramesDecoded | Decoded | Finished
