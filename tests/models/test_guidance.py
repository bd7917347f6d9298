from __future__ import annotations

import mlx.core as mx

from ltx_models.guidance import classifier_free_guidance


def test_classifier_free_guidance() -> None:
    unconditional, conditional = mx.array([1.0, -2.0]), mx.array([2.0, 0.5])
    assert classifier_free_guidance(unconditional, conditional, 3.0).tolist() == [4.0, 5.5]


def test_scale_one_is_the_conditional_prediction_and_zero_the_unconditional() -> None:
    unconditional, conditional = mx.array([1.0, -2.0]), mx.array([2.0, 0.5])
    assert classifier_free_guidance(unconditional, conditional, 1.0).tolist() == conditional.tolist()
    assert classifier_free_guidance(unconditional, conditional, 0.0).tolist() == unconditional.tolist()
