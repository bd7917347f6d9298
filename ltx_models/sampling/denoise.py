"""Run the denoising loop: from a canvas, step by step, to latents."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ltx_models.errors import InvalidRequest
from ltx_models.events import PromptEmbeddings, ResumePoint, Stepped
from ltx_models.families.stages import DENOISE
from ltx_models.layers.finite import all_finite, not_finite
from ltx_models.request import GenerationRequest, Guidance
from ltx_models.resume_point import Provenance
from ltx_models.sampling.conditioning import Canvas
from ltx_models.sampling.guidance import combine
from ltx_models.sampling.latents import IMAGE_NOISE, STOCHASTIC_NOISE, LatentShape, draw_noise, from_tokens, to_tokens
from ltx_models.schedulers import euler_step, predict_x0, stochastic_step
from ltx_models.transformers.ltxv import Conditioning, Perturbation, TokenTimesteps, Transformer

__all__ = ["EXTRA", "LATENTS", "Denoiser", "Schedule", "schedule_steps"]

LATENTS = "latents"
"""Their array of the latents, (1, C, F, H, W) float32."""
EXTRA = "extra"
"""Their array of the tokens of pictures and clips that are no part of the latents, (1, N, C) float32, if there are any.
"""

MASK_EPS = 1e-6
"""How far a timestep may be above 1 - strength while the token still changes."""

Schedule = Sequence[tuple[float, float]]
"""The steps of a render: the timestep at which each begins, and the one at which it ends."""


def schedule_steps(timesteps: Sequence[float], skip_first: int, skip_last: int) -> Schedule:
    """Return the steps of a render: from each timestep that is kept to the next, and from the last one to 0.

    The first and the last few timesteps are left out as if they had never been in the list, so the last step that is
    kept removes all noise, however much there is. That is what `skip_initial_inference_steps` and
    `skip_final_inference_steps` do in the pipeline of LTX-Video.

    Args:
        timesteps: All timesteps of the schedule, falling, in (0, 1].
        skip_first: How many of the first timesteps are left out.
        skip_last: How many of the last timesteps are left out.
    """
    kept = timesteps[skip_first : len(timesteps) - skip_last]
    return list(itertools.pairwise((*kept, 0.0)))


class Denoiser:
    """The steps of one render. `request` is resolved; `provenance` is that of its resume points."""

    def __init__(
        self,
        transformer: Transformer,
        request: GenerationRequest,
        schedule: Schedule,
        embeddings: PromptEmbeddings,
        provenance: Provenance | None = None,
    ) -> None:
        self.transformer = transformer
        self.request = request
        self.schedule = schedule
        self.embeddings = embeddings
        self.provenance = provenance or Provenance()
        self.guidances = [request.guidance_at(timestep) for timestep, _ in schedule]
        layers = transformer.config.num_layers
        for guidance in self.guidances:
            if guidance.stg_scale > 0 and max(guidance.stg_blocks, default=0) >= layers:
                raise InvalidRequest(
                    f"stg_blocks {guidance.stg_blocks} name a block that the model lacks; it has 0 to {layers - 1}"
                )

    def run(
        self, canvas: Canvas, shape: LatentShape, resume: ResumePoint | None = None
    ) -> Generator[tuple[Stepped, mx.array], None, ResumePoint]:
        """Yield the steps that are left to do, each with the predicted video as tokens (1, F·H·W, C).

        Args:
            canvas: The initial state.
            shape: The shape of the latents.
            resume: The point to continue from, in place of the canvas's tokens; None to begin.

        Returns:
            The point after the last step.

        Raises:
            NotFinite: A step's result has NaN or infinite values.
        """
        tokens = canvas.tokens
        if resume is not None:
            tokens = to_tokens(resume.arrays[LATENTS])
            if canvas.extra:
                tokens = mx.concatenate([mx.array(resume.arrays[EXTRA]), tokens], axis=1)
        resume = self._point(resume.step if resume else 0, tokens, canvas.extra, shape)
        predict = self._predictor(canvas)
        levels = None if canvas.strengths is None else _Levels(canvas.strengths)
        for step in range(resume.step + 1, len(self.schedule) + 1):
            started = time.perf_counter()
            timestep, next_timestep = self.schedule[step - 1]
            tokens = self._noise_kept_tokens(tokens, canvas, step)
            at = mx.array([[timestep]])
            if canvas.strengths is not None:
                at = mx.minimum(at, 1 - canvas.strengths)
            timesteps = at if levels is None else levels.timesteps(timestep)
            velocity = predict(tokens, timesteps, self.guidances[step - 1])
            x0 = predict_x0(tokens, velocity, at[..., None])
            if self.request.stochastic:
                moved = stochastic_step(x0, self._draw(STOCHASTIC_NOISE, step, tokens.shape), next_timestep)
            else:
                moved = euler_step(tokens, velocity, timestep, next_timestep)
            if canvas.strengths is not None:
                moves = timestep - MASK_EPS < 1 - canvas.strengths
                moved = mx.where(moves[..., None], moved, tokens)
            tokens, finite = moved, all_finite(moved)
            mx.eval(tokens, finite)
            if not finite.item():
                raise not_finite(f"the latents of step {step} of {len(self.schedule)}")
            seconds = time.perf_counter() - started
            resume = self._point(step, tokens, canvas.extra, shape)
            yield Stepped(step, len(self.schedule), timestep, seconds, resume), x0[:, canvas.extra :]
        return resume

    def _point(self, step: int, tokens: mx.array, extra: int, shape: LatentShape) -> ResumePoint:
        arrays = {LATENTS: from_tokens(tokens[:, extra:], shape)}
        if extra:
            arrays[EXTRA] = np.array(tokens[:, :extra])
        return ResumePoint(DENOISE.name, step, arrays, self.provenance)

    def _noise_kept_tokens(self, tokens: mx.array, canvas: Canvas, step: int) -> mx.array:
        """Add noise to tokens that are kept unchanged, less from step to step."""
        scale = self.request.image_noise_scale
        if canvas.strengths is None or not scale:
            return tokens
        amount = scale * self.schedule[step - 1][0] ** 2
        noised = canvas.tokens + amount * self._draw(IMAGE_NOISE, step, tokens.shape)
        return mx.where((canvas.strengths > 1 - MASK_EPS)[..., None], noised, tokens)

    def _draw(self, stream: int, step: int, shape: tuple[int, ...]) -> mx.array:
        assert self.request.seed is not None
        return mx.array(draw_noise(self.request.seed, stream, shape, step))

    def _predictor(self, canvas: Canvas) -> _Predictor:
        texts = [(self.embeddings.prompt, self.embeddings.prompt_mask)]
        if any(guidance.scale > 1 for guidance in self.guidances):
            assert self.embeddings.negative is not None
            assert self.embeddings.negative_mask is not None
            texts.insert(0, (self.embeddings.negative, self.embeddings.negative_mask))
        assert self.request.frame_rate
        shared = self.transformer.prepare(*text_batch(texts), canvas.coordinates, self.request.frame_rate)
        return _Predictor(self.transformer, self.request, functools.cache(shared.select), prompt_row=len(texts) - 1)


@dataclass(frozen=True, eq=False)
class _Predictor:
    """A function that predicts guided velocities.

    Attributes:
        transformer: The model.
        request: The resolved request.
        select: Returns the conditioning of a batch of texts, by their rows.
        prompt_row: The row of the prompt; the negative prompt, if it is used, has row 0.
    """

    transformer: Transformer
    request: GenerationRequest
    select: Callable[[tuple[int, ...]], Conditioning]
    prompt_row: int

    def __call__(self, tokens: mx.array, timestep: mx.array | TokenTimesteps, guidance: Guidance) -> mx.array:
        """Return the guided velocity (1, N, C) of tokens (1, N, C), in float32: guidance keeps that precision."""
        mode = self.request.stg_mode
        assert mode is not None
        guided = guidance.scale > 1
        perturbing = guidance.stg_scale > 0
        perturbation = Perturbation(mode, guidance.stg_blocks) if perturbing and guidance.stg_blocks else None
        # The perturbed row is not given: the transformer begins it where it parts from the conditional one.
        rows = (0,) * guided + (self.prompt_row,) * (2 if perturbation else 1)
        batch = mx.concatenate([tokens, tokens]) if guided else tokens
        velocity = self.transformer(batch, timestep, self.select(rows), perturbation).astype(mx.float32)
        predictions = mx.split(velocity, len(rows))
        conditional = predictions[int(guided)]
        return combine(
            guidance,
            unconditional=predictions[0] if guided else None,
            conditional=conditional,
            # Perturbing no block predicts the same once more.
            perturbed=None if not perturbing else predictions[-1] if perturbation else conditional,
            cfg_star=bool(self.request.cfg_star),
        )


class _Levels:
    """The few distinct timesteps that tokens of strengths (1, N) have at a step, found once for all steps."""

    def __init__(self, strengths: mx.array) -> None:
        values, places = np.unique(np.array(strengths[0]), return_inverse=True)
        self._least_noisy = 1 - mx.array(values)
        self._places = mx.array(places.astype(np.int32))

    def timesteps(self, timestep: float) -> TokenTimesteps:
        """Return the timesteps of a step: a token is no noisier than its strength allows."""
        return TokenTimesteps(mx.minimum(timestep, self._least_noisy), self._places)


def text_batch(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[mx.array, mx.array | None]:
    """Return texts as one batch (B, S, D), with a mask where they differ in length, else None.

    Attention to text does not depend on positions, so padding inside the rows is cut out.

    Args:
        rows: Embeddings (1, N, D) and their mask (1, N), for each text.
    """
    texts = [np.asarray(embedding)[0][np.asarray(mask)[0] > 0] for embedding, mask in rows]
    lengths = [len(text) for text in texts]
    longest = max(lengths)
    batch = np.stack([np.pad(text, ((0, longest - len(text)), (0, 0))) for text in texts])
    if min(lengths) == longest:
        return mx.array(batch), None
    return mx.array(batch), mx.arange(longest) < mx.array(lengths)[:, None]
