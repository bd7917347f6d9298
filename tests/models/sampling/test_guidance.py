"""Test guidance against values computed by hand and by NumPy; and which guidance a step gets."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_models.families.variants import find_variant
from ltx_models.request import GenerationRequest, Guidance
from ltx_models.sampling.guidance import classifier_free_guidance, combine, project, rescale, spatio_temporal_guidance

U, C, P = (np.random.default_rng(seed).normal(size=(1, 5, 4)).astype(np.float32) for seed in range(3))


def guided(cfg_star: bool = False, unconditional: bool = True, perturbed: bool = True, **values: Any) -> np.ndarray:
    guidance = Guidance(**{"scale": 1.0, "stg_scale": 0.0, "rescale": 1.0, "stg_blocks": (1,), **values})
    velocity = combine(
        guidance,
        unconditional=mx.array(U) if unconditional else None,
        conditional=mx.array(C),
        perturbed=mx.array(P) if perturbed else None,
        cfg_star=cfg_star,
    )
    return np.array(velocity)


def test_classifier_free_guidance() -> None:
    unconditional, conditional = mx.array([1.0, -2.0]), mx.array([2.0, 0.5])
    assert classifier_free_guidance(unconditional, conditional, 3.0).tolist() == [4.0, 5.5]


def test_scale_one_is_the_conditional_prediction_and_zero_the_unconditional() -> None:
    unconditional, conditional = mx.array([1.0, -2.0]), mx.array([2.0, 0.5])
    assert classifier_free_guidance(unconditional, conditional, 1.0).tolist() == conditional.tolist()
    assert classifier_free_guidance(unconditional, conditional, 0.0).tolist() == unconditional.tolist()


def test_projection() -> None:
    """⟨c, u⟩ = 3·1 + 4·2 = 11 and ‖u‖² = 5."""
    assert project(mx.array([[1.0, 2.0]]), mx.array([[3.0, 4.0]]))[0].tolist() == pytest.approx([2.2, 4.4])


def test_projection_is_by_sample_and_survives_zeros() -> None:
    unconditional, conditional = mx.array([[1.0, 0.0], [0.0, 0.0]]), mx.array([[2.0, 5.0], [1.0, 1.0]])
    assert project(unconditional, conditional).tolist() == [[2.0, 0.0], [0.0, 0.0]]


def test_spatio_temporal_guidance() -> None:
    one, two, three = (mx.array([value]) for value in (1.0, 2.0, 3.0))
    assert spatio_temporal_guidance(one, two, three, 4.0).tolist() == [1 + 4 * (2 - 3)]


def test_rescale() -> None:
    """Deviations of 1 and 2: at 0.5 the factor is 0.5·(1/2) + 0.5."""
    velocity, conditional = mx.array([[[-2.0], [2.0]]]), mx.array([[[-1.0], [1.0]]])
    assert rescale(velocity, conditional, 0.5).tolist() == [[[-1.5], [1.5]]]
    assert rescale(velocity, conditional, 1.0).tolist() == conditional.tolist()
    assert rescale(velocity, conditional, 0.0).tolist() == velocity.tolist()


def test_all_of_it_in_order() -> None:
    scaled = U * (C * U).sum() / ((U**2).sum() + 1e-8)
    expected = scaled + 3 * (C - scaled)
    expected = expected + 2 * (C - P)
    expected = expected * (0.7 * C.std(ddof=1) / expected.std(ddof=1) + 0.3)
    np.testing.assert_allclose(guided(cfg_star=True, scale=3.0, stg_scale=2.0, rescale=0.7), expected, rtol=1e-5)


def test_without_cfg_the_conditional_prediction_is_guided() -> None:
    np.testing.assert_allclose(guided(unconditional=False, stg_scale=2.0), C + 2 * (C - P), rtol=1e-5)


def test_rescale_belongs_to_stg() -> None:
    np.testing.assert_allclose(guided(perturbed=False, scale=3.0, rescale=0.5), U + 3 * (C - U), rtol=1e-5)


STAGES: dict[str, Any] = {  # the 13B model's, but for the blocks' numbers
    "guidance_timesteps": (1.0, 0.996, 0.9933, 0.9850, 0.9767, 0.9008, 0.6180),
    "guidance_scale": (1, 1, 6, 8, 6, 1, 1),
    "stg_scale": (0, 0, 4, 4, 4, 2, 1),
    "rescale": (1, 1, 0.5, 0.5, 1, 1, 1),
    "stg_blocks": ((), (11, 25, 35, 39), (22, 35, 39), (28,), (28,), (28,), (28,)),
}


def resolved(**values: Any) -> GenerationRequest:
    return GenerationRequest(prompt="a cat", **values).resolve(find_variant("pocket"))


@pytest.mark.parametrize(
    ("timestep", "stage"),
    [(1.0, 0), (0.9999, 1), (0.996, 1), (0.9959, 2), (0.98, 4), (0.95, 5), (0.7, 6), (0.618, 6), (0.1, 6)],
)
def test_a_step_takes_the_first_guidance_timestep_not_above_its_own_or_the_last(timestep: float, stage: int) -> None:
    guidance = resolved(**STAGES).guidance_at(timestep)
    assert guidance == Guidance(
        scale=STAGES["guidance_scale"][stage],
        stg_scale=STAGES["stg_scale"][stage],
        rescale=STAGES["rescale"][stage],
        stg_blocks=STAGES["stg_blocks"][stage],
    )


def test_what_does_not_vary_is_the_same_at_every_step() -> None:
    request = resolved(**{**STAGES, "guidance_scale": 2.0, "stg_blocks": (3, 4)})
    guidances = [request.guidance_at(timestep) for timestep in (1.0, 0.98, 0.1)]
    assert [guidance.scale for guidance in guidances] == [2.0] * 3
    assert [guidance.stg_blocks for guidance in guidances] == [(3, 4)] * 3
    assert [guidance.stg_scale for guidance in guidances] == [0, 4, 1]


def test_guidance_without_guidance_timesteps() -> None:
    guidance = resolved(guidance_scale=2.5, stg_scale=1, stg_blocks=(19,), rescale=0.7).guidance_at(0.3)
    assert guidance == Guidance(scale=2.5, stg_scale=1, rescale=0.7, stg_blocks=(19,))
