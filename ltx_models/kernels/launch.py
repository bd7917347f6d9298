"""Run a kernel where there is a GPU that it was written for, and the plain formula everywhere else."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

__all__ = ["Kernel", "Operation", "backend", "chunk_size", "distance", "kernels_off", "random_array", "threads_for"]

log = logging.getLogger(__name__)

WARP = 32
MOST_THREADS = 256
MOST_ITEMS = 8
"""The largest number of a row's chunks that one thread may process."""
CHUNK_BYTES = 16
"""Bytes of a load in CUDA."""
METAL_CHUNK = 4
"""Channels that a thread loads at once in Metal."""
BOUNDS = {mx.float32: 1e-4, mx.float16: 4e-3, mx.bfloat16: 2e-2}
"""The largest distance from the plain formula at which a kernel is trusted."""
WORST = 25
"""How many times as far off as the whole result a single number of it may be. Rounding causes a factor of 4, and one
wrong channel of thousands hardly shows in the distance of the whole.
"""
COMMAND_BUFFER_FAILED = "[METAL] Command buffer execution failed"
"""MLX's message where the GPU has failed, as opposed to a kernel that does not compile."""

_switched_off: set[str] = set()


@functools.cache
def _gpu() -> str | None:
    if mx.cuda.is_available():
        return "cuda"
    return "metal" if mx.metal.is_available() else None


def backend() -> str | None:
    """Return "cuda" or "metal" where MLX computes on such a GPU by default; None on a CPU."""
    return _gpu() if mx.default_device() == mx.Device(mx.gpu) else None


def kernels_off(*names: str) -> None:
    """Use the plain formulas of these operations from now on, and the kernels of all others, to compare the two."""
    _switched_off.clear()
    _switched_off.update(names)


def random_array(shape: Sequence[int], dtype: mx.Dtype, seed: int) -> mx.array:
    """Return normally distributed numbers, without using MLX's own random state."""
    return mx.array(np.random.default_rng(seed).standard_normal(shape, np.float32)).astype(dtype)


@dataclass(frozen=True)
class Kernel:
    """A kernel in both languages.

    Attributes:
        name: The kernel's name.
        inputs: The names of its input arrays in the code.
        outputs: The names of its output arrays.
        cuda: Header and body in CUDA.
        metal: Header and body in Metal.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cuda: tuple[str, str]
    metal: tuple[str, str]

    @functools.cached_property
    def _compiled(self) -> Any:
        name = f"ltx_{self.name}"
        if backend() == "cuda":
            return mx.fast.cuda_kernel(name, self.inputs, self.outputs, self.cuda[1], self.cuda[0])
        return mx.fast.metal_kernel(name, self.inputs, self.outputs, self.metal[1], self.metal[0])

    def __call__(
        self,
        *arrays: mx.array,
        groups: int,
        threads: int,
        shapes: Sequence[tuple[int, ...]],
        **constants: int | bool | mx.Dtype,
    ) -> list[mx.array]:
        """Run the kernel and return its outputs, in the type that the constant T names.

        Args:
            *arrays: The inputs.
            groups: The number of blocks.
            threads: The number of threads in each block.
            shapes: The shapes of the outputs.
            **constants: Values of the kernel's template parameters.
        """
        outputs: list[mx.array] = self._compiled(
            inputs=list(arrays),
            template=[("THREADS", threads), *constants.items()],
            grid=(groups * threads, 1, 1),
            threadgroup=(threads, 1, 1),
            output_shapes=list(shapes),
            output_dtypes=[constants["T"]] * len(shapes),
        )
        return outputs


def chunk_size(dtype: mx.Dtype) -> int:
    """Return the channels that a thread loads at once."""
    return METAL_CHUNK if backend() == "metal" else CHUNK_BYTES // dtype.size


def threads_for(channels: int, dtype: mx.Dtype) -> int | None:
    """Return the number of threads that share a row of `channels` channels; None where no kernel supports so many."""
    chunk = chunk_size(dtype)
    if dtype not in BOUNDS or channels % chunk:
        return None
    chunks = channels // chunk
    threads = min(MOST_THREADS, -(-chunks // WARP) * WARP)
    return threads if -(-chunks // threads) <= MOST_ITEMS else None


class Operation:
    """An operation as a kernel and as a plain formula; each call uses the one that is right for its arguments.

    A kernel is compiled on the machine that it runs on, by a compiler with which it may never have been tested. So it
    is checked when it is first used on arguments of a kind: one that cannot be compiled, or whose result differs from
    the formula's, is not used, and a warning says so.

    Args:
        name: The operation's name, for `kernels_off` and warnings.
        plain: The formula.
        launch: The kernel, with the same arguments and results.
        fits: Returns whether the kernel supports these arguments.
        sample: Returns small arguments of the same kinds, for the check.
    """

    def __init__(
        self,
        name: str,
        *,
        plain: Callable[..., Any],
        launch: Callable[..., Any],
        fits: Callable[..., bool],
        sample: Callable[..., tuple[Any, ...]],
    ) -> None:
        self.name = name
        self.plain, self.launch = plain, launch
        self._fits, self._sample = fits, sample
        self._trusted: dict[Any, bool] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Return the result, from the kernel where it can be used, else from the formula."""
        if backend() is None or self.name in _switched_off or not self._fits(*arguments):
            return self.plain(*arguments)
        return self.launch(*arguments) if self._trusts(arguments) else self.plain(*arguments)

    def distance(self, *arguments: Any) -> float:
        """Return the largest `distance` of the kernel's results from the formula's on these arguments."""
        pairs = zip(_arrays(self.launch(*arguments)), _arrays(self.plain(*arguments)), strict=True)
        arrays = [[np.array(array.astype(mx.float32), np.float64) for array in pair] for pair in pairs]
        return float(np.max([distance(ours, expected) for ours, expected in arrays]))

    def _trusts(self, arguments: tuple[Any, ...]) -> bool:
        key = tuple(_kind(argument) for argument in arguments)
        if key not in self._trusted:
            self._trusted[key] = self._tried(arguments)
        return self._trusted[key]

    def _tried(self, arguments: tuple[Any, ...]) -> bool:
        bound = BOUNDS[next(argument.dtype for argument in arguments if isinstance(argument, mx.array))]
        # MLX raises what work that was queued before has met when it is next waited for, and once: never in a trial.
        mx.synchronize()
        try:
            distance = self.distance(*self._sample(*arguments))
        except Exception as error:
            if COMMAND_BUFFER_FAILED in str(error):  # the GPU's failure, which a result elsewhere may have met
                raise
            log.warning("the kernel %s is not used, because it fails on this machine: %s", self.name, str(error)[:2000])
            return False
        if not distance <= bound:
            log.warning(
                "the kernel %s is not used, because its result is off by %.2g on this machine", self.name, distance
            )
        return distance <= bound


def distance(ours: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 distance, or the worst single number's error relative to the whole over WORST, if larger.

    The result is NaN where a number is NaN.
    """
    error = ours - expected
    size = np.linalg.norm(expected)
    worst = np.max(np.abs(error)) * np.sqrt(error.size) / WORST
    return float(np.max([np.linalg.norm(error), worst]) / size)


def _kind(argument: Any) -> Any:
    """Return what a kernel is compiled for: an array's type and channels (the type of indices), or a constant."""
    if not isinstance(argument, mx.array):
        return argument
    return argument.dtype if argument.dtype == mx.int32 else (argument.dtype, argument.shape[-1])


def _arrays(result: Any) -> list[mx.array]:
    return [result] if isinstance(result, mx.array) else list(result)
