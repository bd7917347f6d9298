"""Whether what was computed is numbers at all: a GPU may give NaN or infinite values without an error."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ltx_models.errors import NotFinite

__all__ = ["CheckedConversion", "all_finite", "not_finite", "require_finite"]


def all_finite(values: mx.array) -> mx.array:
    """Return whether all values are finite, to be evaluated with them: a sum, which is not where one of them is not."""
    if values.dtype == mx.float16:  # whose sum may overflow
        values = values.astype(mx.float32)
    return mx.isfinite(mx.sum(values))


def require_finite(values: np.ndarray, what: str) -> np.ndarray:
    """Return the values. Raise NotFinite, which says `what` they are, unless all are finite."""
    if not np.isfinite(values).all():
        raise not_finite(what)
    return values


def not_finite(what: str) -> NotFinite:
    """Return the error that says of `what` that it is not finite."""
    return NotFinite(f"{what} came out as NaN or infinite values")


class CheckedConversion:
    """Converts pixels, and notes of each piece whether all of it was finite: nothing waits for the answers."""

    def __init__(self, convert: Callable[[mx.array], mx.array]) -> None:
        self._convert = convert
        self._finite: list[mx.array] = []

    def __call__(self, pixels: mx.array) -> mx.array:
        """Return the pixels as they are to be."""
        converted, finite = self._convert(pixels), all_finite(pixels)
        mx.async_eval(converted, finite)  # together, so that the pixels need not be kept for the answer
        self._finite.append(finite)
        return converted

    def check(self, *, all_done: bool = False) -> None:
        """Raise NotFinite where a piece was not finite; the newest, which may still be computed, is asked of only where
        `all_done` says so.
        """
        known = len(self._finite) if all_done else max(0, len(self._finite) - 1)
        answers, self._finite = self._finite[:known], self._finite[known:]
        if not all(answer.item() for answer in answers):
            raise not_finite("the decoded frames")
