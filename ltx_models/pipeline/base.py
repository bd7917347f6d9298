"""What every family's pipeline offers, and the pipeline of a variant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from ltx_models.events import Event, Finished, Previewed, RenderResult, ResumePoint, Stepped
from ltx_models.families.family import named
from ltx_models.families.variants import Variant, find_variant
from ltx_models.files.model_files import find_files
from ltx_models.pipeline.residency import Models, files_of
from ltx_models.request import ConditioningItem, GenerationRequest
from ltx_models.resume_point import Provenance

__all__ = ["Pipeline", "open_pipeline"]


class Pipeline(ABC):
    """The networks of one variant, and renders with them. It must not be used from several threads at once.

    Nothing is loaded before `load_models`, which the first render calls.

    Args:
        variant: The name of a variant of the pipeline's family.
        dtype: The type of weights and activations; by default bfloat16 on a GPU, and float32 on a CPU, which has no
            fast bfloat16.

    Attributes:
        hashes: The SHA-256 of `hashed_files`, which resume points carry so that other networks do not continue from
            them. Whoever keeps resume points sets it; it is empty at first, since reading 10 GB takes many seconds.

    Raises:
        UnknownVariant: There is no such variant.
    """

    variant: Variant
    dtype: mx.Dtype
    hashes: Mapping[str, str]

    def __init__(self, variant: str, *, dtype: mx.Dtype | None = None) -> None:
        self._set(find_variant(variant), dtype)

    def _set(self, variant: Variant, dtype: mx.Dtype | None) -> None:
        on_gpu = mx.default_device() == mx.Device(mx.gpu)
        self.variant = variant
        self.dtype = dtype or (mx.bfloat16 if on_gpu else mx.float32)
        self.hashes = {}

    @cached_property
    def models(self) -> Models:
        """The networks, as far as they are loaded."""
        return Models(self.variant, self.dtype)

    @property
    def hashed_files(self) -> dict[str, list[Path]]:
        """The files whose bytes identify what a render is made with, by the name of what they identify."""
        found = find_files(self.variant)
        files: dict[str, list[Path]] = {}
        for part in self.variant.family.parts:
            files.setdefault(part.hashed_as, []).extend(files_of(part, found[part.name]))
        return files

    def load_models(self, progress_callback: Callable[[float, str], None] | None = None, *, texts: bool = True) -> None:
        """Read the networks that fit the budget together; others are read when they are used.

        Args:
            progress_callback: Called with the fraction done and what is next.
            texts: Include what encodes texts; otherwise it is read for the first text that must be encoded.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        self.models.load(progress_callback or (lambda _fraction, _message: None), texts=texts)

    def clear_all(self) -> None:
        """Free the networks and MLX's cache. The next render loads them again."""
        self.models.clear()

    @abstractmethod
    def stream(
        self,
        request: GenerationRequest,
        *,
        known_texts: Mapping[str, np.ndarray] | None = None,
        resume: ResumePoint | None = None,
        job: str = "",
        checkpoint_every: int = 0,
    ) -> Generator[Event, None, None]:
        """Render `request`, and yield what happens as it happens; see `ltx_models.events`.

        The caller drives: between two events nothing runs, and closing the generator ends the render.

        Args:
            request: The request; what is None in it takes the variant's value.
            known_texts: Embeddings (1, N, D) by text, for texts of this request that need no encoding.
            resume: The point to continue from, of an earlier event of the same request (its seed given): the frames
                are the same, bit for bit, as if the render had not stopped.
            job: What the caller identifies the request by, such as a digest of it; points of another are refused.
            checkpoint_every: The interval of previews in steps; 0 for no previews.

        Raises:
            ModelError: The request is refused, or the machine cannot render it.
        """

    def generate_video(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        num_frames: int | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        *,
        frame_rate: float | None = None,
        conditioning: Sequence[ConditioningItem] = (),
        checkpoint_every: int = 1,
        on_progress: Callable[[int, int], None] | None = None,
        on_checkpoint: Callable[[int, Image.Image], None] | None = None,
    ) -> RenderResult:
        """Render one video and wait for it. What is None takes the variant's value.

        The other arguments are those of a `GenerationRequest`.

        Args:
            prompt: The prompt.
            negative_prompt: The negative prompt.
            width: Pixels.
            height: Pixels.
            num_frames: The number of frames.
            num_steps: The number of steps.
            guidance: The scale of classifier-free guidance.
            seed: The seed; None for a random one.
            frame_rate: Frames a second.
            conditioning: Pictures and clips.
            checkpoint_every: The interval of `on_checkpoint` in steps.
            on_progress: Called with the step and the number of steps.
            on_checkpoint: Called with the step and a preview, a PIL RGB image.
        """
        request = GenerationRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_frames=num_frames,
            num_steps=num_steps,
            guidance_scale=guidance,
            frame_rate=frame_rate,
            conditioning=tuple(conditioning),
            seed=seed,
        )
        for event in self.stream(request, checkpoint_every=checkpoint_every if on_checkpoint else 0):
            if isinstance(event, Stepped) and on_progress:
                on_progress(event.step, event.steps)
            elif isinstance(event, Previewed) and on_checkpoint:
                on_checkpoint(event.step, event.image)
            elif isinstance(event, Finished):
                return event.result
        raise AssertionError("the stream ended without a result")

    def provenance(self, job: str = "") -> Provenance:
        """Return what the resume points of a render are made with; `job` is what the caller identifies it by."""
        return Provenance(
            job=job,
            hashes=dict(self.hashes),
            dtype=str(self.dtype),
            quantization=dict(self.variant.bits),
            version=metadata.version("ltx-farm"),
        )

    def text_origin(self, hashes: Mapping[str, str]) -> dict[str, Any]:
        """Return all of the model that a text's embeddings depend on.

        Args:
            hashes: The hashes of `hashed_files`.
        """
        return dict(hashes)

    def text_shape(self, text: str) -> tuple[int, int, int]:
        """Return the shape (1, N, D) of a text's embeddings, without what encodes it."""
        raise NotImplementedError(f"{type(self).__name__} makes no embeddings of {text!r}")

    def count_tokens(self, _text: str) -> int:
        """Return the number of tokens of a text, all that are read or more; 0 where texts are of any length."""
        return 0

    def embed_during_decode(self, _texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return embeddings (1, N, D) of texts of a later render, between two events of this one's decode.

        The result is empty where what encodes them is not in memory, or has no room there.
        """
        return {}


def open_pipeline(variant: str, *, dtype: mx.Dtype | None = None) -> Pipeline:
    """Return the pipeline of a variant, of its family's class. Raise UnknownVariant."""
    row = find_variant(variant)
    pipeline: Pipeline = named(row.family.pipeline)(row.name, dtype=dtype)
    return pipeline
