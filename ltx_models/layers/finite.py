"""Check results for NaN and infinite values, which a GPU may produce without an error."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ltx_models.errors import NotFinite

__all__ = ["CheckedConversion", "all_finite", "not_finite", "require_finite"]


def all_finite(values: mx.array) -> mx.array:
    """Return a scalar array, not evaluated yet, that is True if the sum of the values, and so each value, is finite."""
    if values.dtype == mx.float16:  # its sum may overflow
        values = values.astype(mx.float32)
    return mx.isfinite(mx.sum(values))


def require_finite(values: np.ndarray, what: str) -> np.ndarray:
    """Return the values. Raise NotFinite, which names them as `what`, unless all are finite."""
    if not np.isfinite(values).all():
        raise not_finite(what)
    return values


def not_finite(what: str) -> NotFinite:
    """Return the error that says that `what` is not finite."""
    return NotFinite(f"{what} came out as NaN or infinite values")


class CheckedConversion:
    """A conversion of pixels that also records whether each piece was finite, without waiting for the answers."""

    def __init__(self, convert: Callable[[mx.array], mx.array]) -> None:
        self._convert = convert
        self._finite: list[mx.array] = []

    def __call__(self, pixels: mx.array) -> mx.array:
        """Return the converted pixels, and record whether they were finite."""
        converted, finite = self._convert(pixels), all_finite(pixels)
        mx.async_eval(converted, finite)  # together, so that the pixels need not be kept for the answer
        self._finite.append(finite)
        return converted

    def check(self, *, all_done: bool = False) -> None:
        """Raise NotFinite where a piece was not finite.

        Args:
            all_done: Include the newest piece, which may still be being computed; by default it is left out.
        """
        known = len(self._finite) if all_done else max(0, len(self._finite) - 1)
        answers, self._finite = self._finite[:known], self._finite[known:]
        if not all(answer.item() for answer in answers):
            raise not_finite("the decoded frames")
