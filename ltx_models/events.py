"""The events of a render, in order.

InputRead while pictures and clips are read; then StageBegan and Progress for each stage of the model's family, and what
comes of it: TextEncoded; Stepped, which is a Progress, and Previewed; FramesDecoded for each part, and Decoded. At
last Finished. Everything is plain NumPy and PIL: events can be stored, sent and read without MLX.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ltx_models.errors import VideoError
from ltx_models.families.stages import DENOISE
from ltx_models.files.output_files import MP4, writing
from ltx_models.request import GenerationRequest
from ltx_models.resume_point import ResumePoint
from ltx_models.schedulers import SchedulerConfig
from ltx_models.sound import Sound
from ltx_models.video import write_mp4

__all__ = [
    "Decoded",
    "Event",
    "Finished",
    "FramesDecoded",
    "InputRead",
    "Previewed",
    "Progress",
    "PromptEmbeddings",
    "RenderResult",
    "Report",
    "ResumePoint",
    "StageBegan",
    "Stepped",
    "TextEncoded",
]


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """The text as the transformer sees it.

    Attributes:
        prompt: Embeddings (1, N, D) of the prompt, float32.
        prompt_mask: (1, N): 1 for a token, 0 for padding.
        negative: Embeddings of the negative prompt; None where guidance does not use it.
        negative_mask: Its mask, or None.
    """

    prompt: np.ndarray
    prompt_mask: np.ndarray
    negative: np.ndarray | None = None
    negative_mask: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class RenderResult:
    """A finished video.

    Attributes:
        frames: uint8 (F, H, W, 3).
        latents: Normalized latents, float32 (1, C, F, H, W); of a family with several streams, a mapping of such
            arrays by the stream's name.
        request: The resolved request: every value is filled in, the seed too.
        audio: float32 (samples, channels), or None for a video without sound.
        audio_rate: Samples a second of `audio`, or None.
        scheduler: What chose the timesteps, or None where the request has its own.
    """

    frames: np.ndarray
    latents: np.ndarray | Mapping[str, np.ndarray]
    request: GenerationRequest
    audio: np.ndarray | None = None
    audio_rate: int | None = None
    scheduler: SchedulerConfig | None = None

    @property
    def sound(self) -> Sound | None:
        """Return the audio and its rate, or None.

        Raises:
            VideoError: They are invalid, or there is one without the other.
            NotFinite: There are NaN or infinite samples.
        """
        return Sound.of(self.audio, self.audio_rate)

    def save(self, path: Path | str) -> None:
        """Write an MP4, whole or not at all; follow links, and write into devices and pipes.

        Raises:
            VideoError: The path's suffix is of another format, the sound is invalid, or the video could not be encoded
                or written.
            NotFinite: The sound has NaN or infinite values.
        """
        assert self.request.frame_rate
        if why := MP4.why_not(Path(path)):
            raise VideoError(why)
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "video.mp4"
            write_mp4(self.frames, video, self.request.frame_rate, self.sound)
            try:
                with video.open("rb") as whole, writing(Path(path)) as file:
                    shutil.copyfileobj(whole, file)
            except OSError as error:
                raise VideoError(f"cannot write {path}: {error.strerror or error}") from error


@dataclass(frozen=True, eq=False)
class InputRead:
    """A part of a picture or clip is read and prepared.

    Attributes:
        kind: "image" or "video", as in its `ConditioningItem`.
        number: Which of the inputs it is, counted from 1.
        count: The number of inputs.
        part: The fraction that is done, 0 to 1.
        seconds: The part of a clip that is read, as in `3.96–5.00 s`; empty before it is known.
    """

    kind: str
    number: int
    count: int
    part: float
    seconds: str = ""


@dataclass(frozen=True, eq=False)
class TextEncoded:
    """The texts are encoded; another render of the same texts can be given the embeddings."""

    embeddings: PromptEmbeddings


class Report:
    """Base of events that a job's watchers are told of: the wire has an event of the same name and fields."""


@dataclass(frozen=True, eq=False)
class StageBegan(Report):
    """A stage of the family began; `stage` is its name."""

    stage: str


@dataclass(frozen=True, eq=False)
class Progress:
    """A stage has come as far as `done` of `of`.

    Attributes:
        stage: The stage's name.
        done: How many are done of what the stage counts.
        of: How many there are, or None where that is unknown.
        seconds: How long it took since the last Progress of this stage, or since its begin.
        resume: The point from which another render can continue, or None if it cannot from here.
    """

    stage: str
    done: int
    of: int | None
    seconds: float
    resume: ResumePoint | None = None


@dataclass(frozen=True, eq=False, init=False)
class Stepped(Progress):
    """A denoising step is done: the Progress of a stage that counts steps.

    Attributes:
        timestep: The timestep at which the step began.
    """

    of: int
    resume: ResumePoint
    timestep: float = 0.0

    def __init__(
        self,
        step: int,
        steps: int,
        timestep: float,
        seconds: float,
        resume: ResumePoint,
        stage: str = DENOISE.name,
    ) -> None:
        super().__init__(stage, step, steps, seconds, resume)
        object.__setattr__(self, "timestep", timestep)

    @property
    def step(self) -> int:
        """Return the number of the step, counted from 1."""
        return self.done

    @property
    def steps(self) -> int:
        """Return the number of steps of the stage."""
        return self.of


@dataclass(frozen=True, eq=False)
class Previewed:
    """A preview: the middle of the video as it would look if the render ended after `step`, a PIL RGB image."""

    step: int
    image: Image.Image


@dataclass(frozen=True, eq=False)
class FramesDecoded:
    """The frames from number `start` on, uint8 (n, H, W, 3), a view of the array that Decoded carries.

    Each frame comes once, in order, while the next ones are being decoded.
    """

    start: int
    frames: np.ndarray


@dataclass(frozen=True, eq=False)
class Decoded:
    """All frames are decoded: uint8 (F, H, W, 3)."""

    frames: np.ndarray


@dataclass(frozen=True, eq=False)
class Finished:
    """The render is finished; this is its last event."""

    result: RenderResult


Event = InputRead | Report | Progress | TextEncoded | Previewed | FramesDecoded | Decoded | Finished
