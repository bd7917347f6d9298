from __future__ import annotations

import itertools
from typing import Any

import mlx.core as mx
import pytest

from ltx_models.errors import CheckpointError, InvalidRequest
from ltx_models.sampling.denoise import schedule_steps
from ltx_models.schedulers import (
    SchedulerConfig,
    euler_step,
    predict_x0,
    sample_timesteps,
    shorten_timesteps,
    stochastic_step,
)

UNIFORM = SchedulerConfig()
LINEAR_QUADRATIC = SchedulerConfig(sampler="LinearQuadratic")
SD3 = SchedulerConfig(shifting="SD3", target_shift_terminal=0.1)


@pytest.mark.parametrize("config", [UNIFORM, LINEAR_QUADRATIC, SD3])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 41, 1000])
@pytest.mark.parametrize("num_tokens", [1, 64, 4992, 20_000])
def test_timesteps_fall_from_one_and_stay_above_zero(config: SchedulerConfig, num_steps: int, num_tokens: int) -> None:
    timesteps = sample_timesteps(config, num_steps, num_tokens)
    assert len(timesteps) == num_steps
    assert timesteps[0] == 1.0
    assert timesteps[-1] > 0
    assert all(later < earlier for earlier, later in itertools.pairwise(timesteps))


def test_uniform() -> None:
    assert sample_timesteps(UNIFORM, 4, 64) == (1.0, 0.75, 0.5, 0.25)


DISTILLED = (1.0, 0.9937, 0.9875, 0.9812, 0.9750, 0.9094, 0.7250)


@pytest.mark.parametrize(
    ("num_steps", "timesteps"),
    [
        (1, (1.0,)),
        (2, (1.0, 0.7250)),
        (3, (1.0, 0.9812, 0.7250)),
        (4, (1.0, 0.9875, 0.9750, 0.7250)),
        (6, (1.0, 0.9937, 0.9875, 0.9750, 0.9094, 0.7250)),
        (7, DISTILLED),
    ],
)
def test_fewer_steps_than_a_model_was_distilled_for(num_steps: int, timesteps: tuple[float, ...]) -> None:
    assert shorten_timesteps(DISTILLED, num_steps) == timesteps


@pytest.mark.parametrize("num_steps", range(2, 8))
def test_shortened_timesteps_fall_and_keep_both_ends(num_steps: int) -> None:
    timesteps = shorten_timesteps(DISTILLED, num_steps)
    assert len(timesteps) == num_steps
    assert (timesteps[0], timesteps[-1]) == (1.0, 0.7250)
    assert all(later < earlier for earlier, later in itertools.pairwise(timesteps))


def test_one_more_step_is_linear_quadratic_and_more_are_refused() -> None:
    assert shorten_timesteps(DISTILLED, 8) == sample_timesteps(LINEAR_QUADRATIC, 8, 64)
    with pytest.raises(InvalidRequest, match=r"9 steps are more than this variant was distilled for.* 1 to 8 steps"):
        shorten_timesteps(DISTILLED, 9)


def test_steps() -> None:
    assert schedule_steps((1.0, 0.5, 0.2), 0, 0) == [(1.0, 0.5), (0.5, 0.2), (0.2, 0.0)]


def test_skipped_steps_leave_the_others_as_they_are() -> None:
    """The last step that is kept goes to 0."""
    assert schedule_steps((1.0, 0.5, 0.2, 0.1), 1, 1) == [(0.5, 0.2), (0.2, 0.0)]
    assert schedule_steps((1.0, 0.5), 0, 0) == [(1.0, 0.5), (0.5, 0.0)]
    assert schedule_steps((1.0, 0.5), 0, 1) == [(1.0, 0.0)]


def test_a_stochastic_step_noises_the_prediction_afresh() -> None:
    x0, noise = mx.array([2.0, -1.0]), mx.array([1.0, 1.0])
    assert stochastic_step(x0, noise, 0.25).tolist() == [1.75, -0.5]
    assert stochastic_step(x0, noise, 0.0).tolist() == x0.tolist()


def test_the_distilled_list_is_linear_quadratic_without_its_last() -> None:
    assert sample_timesteps(LINEAR_QUADRATIC, 8, 64)[:-1] == pytest.approx(DISTILLED, abs=5e-5)


def test_sd3_shift_is_stretched_to_its_terminal_and_is_not_clamped() -> None:
    assert sample_timesteps(SD3, 20, 4992)[-1] == pytest.approx(0.1)
    without = SchedulerConfig(shifting="SD3")
    at_4096, beyond = (sample_timesteps(without, 20, tokens)[10] for tokens in (4096, 8192))
    assert beyond > at_4096 > 0.5


@pytest.mark.parametrize("values", [{"sampler": "Constant"}, {"shifting": "SimpleDiffusion"}])
def test_what_is_not_supported_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="is not supported"):
        SchedulerConfig(**values)


def test_euler_steps_along_the_true_velocity_end_at_the_video() -> None:
    video, noise = mx.random.normal((4,), key=mx.random.key(0)), mx.random.normal((4,), key=mx.random.key(1))
    velocity = noise - video
    x = noise
    for timestep, next_timestep in itertools.pairwise((*sample_timesteps(LINEAR_QUADRATIC, 6, 64), 0.0)):
        assert mx.allclose(predict_x0(x, velocity, timestep), video, atol=1e-6)
        x = euler_step(x, velocity, timestep, next_timestep)
    assert mx.allclose(x, video, atol=1e-6)
