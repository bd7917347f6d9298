"""Test the denoising loop around a model that is a formula: its calls, and the use of its results."""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from ltx_models.errors import InvalidRequest
from ltx_models.events import PromptEmbeddings, ResumePoint, Stepped
from ltx_models.families.variants import find_variant
from ltx_models.request import GenerationRequest
from ltx_models.sampling.conditioning import Canvas
from ltx_models.sampling.denoise import Denoiser, schedule_steps
from ltx_models.sampling.latents import IMAGE_NOISE, STOCHASTIC_NOISE, draw_noise
from ltx_models.transformers.ltxv import Perturbation, TokenTimesteps
from tests.models.sampling.test_guidance import STAGES

SHAPE = (1, 2, 3, 1, 1)
TIMESTEPS = (1.0, 0.5, 0.1)
EMBEDDINGS = PromptEmbeddings(*[np.ones((1, 4, 8), np.float32), np.ones((1, 4), np.int32)] * 2)


class Selected:
    def __init__(self, rows: tuple[int, ...]) -> None:
        self.rows = rows

    def select(self, rows: tuple[int, ...]) -> Selected:
        return Selected(rows)


class Model:
    """Predicts, in each row, a velocity of 1, and 10 more where it is perturbed; records its calls.

    The perturbed row is not given: it begins as the last of those that are.
    """

    class config:  # noqa: N801
        num_layers = 48

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.perturbations: list[Perturbation | None] = []
        self.tokens: list[np.ndarray] = []
        self.timesteps: list[np.ndarray] = []

    def prepare(self, text: mx.array, mask: Any, coordinates: np.ndarray, frame_rate: float) -> Selected:
        return Selected(tuple(range(len(text))))

    def __call__(
        self, tokens: mx.array, timestep: mx.array | TokenTimesteps, shared: Selected, perturbation: Any
    ) -> mx.array:
        self.rows.append(shared.rows)
        self.perturbations.append(perturbation)
        self.tokens.append(np.array(tokens))
        if isinstance(timestep, TokenTimesteps):
            timestep = timestep.values[timestep.places][None]
        self.timesteps.append(np.array(timestep))
        assert len(shared.rows) == len(tokens) + bool(perturbation)
        velocity = mx.ones((len(shared.rows), *tokens.shape[1:]))
        if perturbation:
            velocity[-1] = velocity[-1] + 10
        return velocity


def run(
    model: Model, canvas: Canvas | None = None, resume: ResumePoint | None = None, **values: Any
) -> tuple[list[Stepped], ResumePoint]:
    timesteps = values.pop("timesteps", TIMESTEPS)
    request = GenerationRequest(prompt="a cat", seed=7, **{"guidance_scale": 1.0, **values})
    request = request.resolve(find_variant("pocket"))
    denoiser = Denoiser(cast(Any, model), request, schedule_steps(timesteps, 0, 0), EMBEDDINGS)
    steps = denoiser.run(canvas or free(), SHAPE, resume)
    happened = []
    while True:
        try:
            happened.append(next(steps)[0])
        except StopIteration as stop:
            return happened, stop.value


def free(value: float = 5.0) -> Canvas:
    return Canvas(mx.full((1, 3, 2), value), np.zeros((1, 3, 3)))


def held(*strengths: float, extra: int = 0) -> Canvas:
    tokens = mx.full((1, len(strengths), 2), 5.0)
    return Canvas(tokens, np.zeros((1, 3, len(strengths))), mx.array([strengths]), extra)


def test_euler_all_the_way() -> None:
    steps, end = run(Model())
    assert [step.timestep for step in steps] == list(TIMESTEPS)
    np.testing.assert_allclose(end.arrays["latents"], np.full(SHAPE, 5 - 1.0), rtol=1e-6)
    assert "extra" not in end.arrays


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ({}, (0,)),
        ({"guidance_scale": 3.0}, (0, 1)),
        ({"stg_scale": 1.0, "stg_blocks": (2,)}, (0, 0)),
        ({"guidance_scale": 3.0, "stg_scale": 1.0, "stg_blocks": (2,)}, (0, 1, 1)),
        ({"guidance_scale": 3.0, "stg_scale": 1.0, "stg_blocks": ()}, (0, 1)),
    ],
)
def test_a_batch_is_unconditional_conditional_perturbed(values: dict[str, Any], rows: tuple[int, ...]) -> None:
    model = Model()
    run(model, **values)
    assert model.rows == [rows] * 3
    perturbed = bool(values.get("stg_scale") and values["stg_blocks"])
    assert all(len(tokens) == len(rows) - perturbed for tokens in model.tokens)


def test_guidance_varies_by_step() -> None:
    model = Model()
    run(model, timesteps=(1.0, 0.996, 0.99, 0.95, 0.3), **{**STAGES, "rescale": 1.0})  # deviations would be 0
    assert model.rows == [(1,), (1,), (0, 1, 1), (1, 1), (1, 1)]
    blocks = [perturbation and perturbation.blocks for perturbation in model.perturbations]
    assert blocks == [None, None, (28,), (28,), (28,)]


def test_the_perturbed_prediction_is_guided_away_from() -> None:
    """v = 1 + 2·(1 - 11), and no rescaling, whose deviations would be 0."""
    _, end = run(Model(), timesteps=(1.0,), stg_scale=2.0, stg_blocks=(0,))
    np.testing.assert_allclose(end.arrays["latents"], 5 - (1 + 2 * (1 - 11)), rtol=1e-6)


def test_a_block_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"\(48,\) name a block that the model lacks; it has 0 to 47"):
        run(Model(), stg_scale=1.0, stg_blocks=(48,))
    run(Model(), stg_scale=0.0, stg_blocks=(48,))


def test_stochastic_steps_draw_fresh_noise() -> None:
    x = np.full((1, 3, 2), 5.0)
    for step, (timestep, following) in enumerate(schedule_steps(TIMESTEPS, 0, 0), start=1):
        x = (1 - following) * (x - timestep) + following * draw_noise(7, STOCHASTIC_NOISE, (1, 3, 2), step)
    _, end = run(Model(), stochastic=True)
    np.testing.assert_allclose(end.arrays["latents"][0, :, :, 0, 0].T, x[0], rtol=1e-5)


def test_a_token_is_no_noisier_than_its_strength_leaves_it() -> None:
    model = Model()
    run(model, held(1.0, 0.8, 0.0), image_noise_scale=0.0)
    np.testing.assert_allclose(np.concatenate(model.timesteps), [[0, 0.2, 1], [0, 0.2, 0.5], [0, 0.1, 0.1]], rtol=1e-6)


def test_a_token_moves_only_below_its_own_timestep() -> None:
    """Strength 0.8: 0.2 is between 0.5 and 0.1, so only the last step, from 0.1 to 0, moves it."""
    _, end = run(Model(), held(1.0, 0.8, 0.0), image_noise_scale=0.0)
    np.testing.assert_allclose(end.arrays["latents"][0, 0, :, 0, 0], [5, 5 - 0.1, 5 - 1], rtol=1e-6)


def test_a_token_moves_at_exactly_its_own_timestep() -> None:
    _, end = run(Model(), held(0.5, 0.5, 0.0))
    np.testing.assert_allclose(end.arrays["latents"][0, 0, :, 0, 0], [4.5, 4.5, 4], rtol=1e-6)


def test_kept_tokens_get_less_noise_from_step_to_step() -> None:
    model = Model()
    _, end = run(model, held(1.0, 0.99, 0.0), image_noise_scale=0.15)
    for step, (timestep, tokens) in enumerate(zip(TIMESTEPS, model.tokens, strict=True), start=1):
        noise = draw_noise(7, IMAGE_NOISE, (1, 3, 2), step)
        np.testing.assert_allclose(tokens[0, 0], 5 + 0.15 * timestep**2 * noise[0, 0], rtol=1e-6)
        np.testing.assert_allclose(tokens[0, 1], 5, rtol=1e-6)
    np.testing.assert_allclose(end.arrays["latents"][0, :, 0, 0, 0], model.tokens[-1][0, 0], rtol=1e-6)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_extra_tokens_are_removed_at_the_end_and_resumed(stop: int) -> None:
    canvas = held(0.8, 0.3, 0.0, 0.0, 1.0, extra=2)
    steps, end = run(Model(), canvas, stochastic=True)
    assert end.arrays["latents"].shape == SHAPE
    assert "extra" in end.arrays
    assert end.arrays["extra"].shape == (1, 2, 2)
    rest, again = run(Model(), canvas, steps[stop].resume, stochastic=True)
    assert [step.step for step in rest] == [1, 2, 3][stop + 1 :]
    assert again.arrays["latents"].tobytes() == end.arrays["latents"].tobytes()
    assert "extra" in again.arrays
    assert again.arrays["extra"].tobytes() == end.arrays["extra"].tobytes()
