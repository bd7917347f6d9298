"""Running a kernel where there is a GPU that it was written for, and the plain formula everywhere else."""

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
"""Chunks of a row that one thread may hold."""
CHUNK_BYTES = 16
"""Of a load, in CUDA."""
METAL_CHUNK = 4
"""Channels that a thread takes at once, in Metal."""
BOUNDS = {mx.float32: 1e-4, mx.float16: 4e-3, mx.bfloat16: 2e-2}
"""Distance from the plain formula up to which a kernel is believed."""
WORST = 25
"""How many times as far as all of a result a single number of it may be off. By rounding it is 4 times, and one wrong
channel of thousands is hardly seen in a distance of all.
"""
COMMAND_BUFFER_FAILED = "[METAL] Command buffer execution failed"
"""What MLX says where the GPU has failed, as opposed to a kernel that does not compile."""

_switched_off: set[str] = set()


@functools.cache
def _gpu() -> str | None:
    if mx.cuda.is_available():
        return "cuda"
    return "metal" if mx.metal.is_available() else None


def backend() -> str | None:
    """ "cuda" or "metal" where that is what MLX computes on by default; None on a CPU."""
    return _gpu() if mx.default_device() == mx.Device(mx.gpu) else None


def kernels_off(*names: str) -> None:
    """Use the plain formulas of these operations from now on, and the kernels of all others: to compare the two."""
    _switched_off.clear()
    _switched_off.update(names)


def random_array(shape: Sequence[int], dtype: mx.Dtype, seed: int) -> mx.array:
    """Normal numbers, made without MLX's own state."""
    return mx.array(np.random.default_rng(seed).standard_normal(shape, np.float32)).astype(dtype)


@dataclass(frozen=True)
class Kernel:
    """A kernel in both languages. inputs, outputs: the names of its arrays there."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cuda: tuple[str, str]
    metal: tuple[str, str]
    """Header and body."""

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
        """groups: blocks of `threads` threads.  shapes: of the outputs, in the constant T's type."""
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
    """Channels that a thread takes at once."""
    return METAL_CHUNK if backend() == "metal" else CHUNK_BYTES // dtype.size


def threads_for(channels: int, dtype: mx.Dtype) -> int | None:
    """Threads that share a row of so many channels; None where no kernel takes it."""
    chunk = chunk_size(dtype)
    if dtype not in BOUNDS or channels % chunk:
        return None
    chunks = channels // chunk
    threads = min(MOST_THREADS, -(-chunks // WARP) * WARP)
    return threads if -(-chunks // threads) <= MOST_ITEMS else None


class Operation:
    """One operation as a kernel and as a plain formula, of which each call takes the one that serves.

    plain: the formula.  launch: the kernel, with the same arguments and results.  fits: whether it takes arguments.
    sample: of arguments, small ones of the same kinds. With these the kernel is tried when it is first used on such
    arguments: one that cannot be compiled, or gives something else than the formula, is not used, and a warning says
    so. For a kernel is compiled on the machine that it runs on, by a compiler that nobody has tried it with.
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
        """The result, from whichever serves."""
        if backend() is None or self.name in _switched_off or not self._fits(*arguments):
            return self.plain(*arguments)
        return self.launch(*arguments) if self._trusts(arguments) else self.plain(*arguments)

    def distance(self, *arguments: Any) -> float:
        """How far the kernel is from the formula on these arguments: the largest `distance` of their results."""
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
            log.warning("the kernel %s is not used, for it fails here: %s", self.name, str(error)[:2000])
            return False
        if not distance <= bound:
            log.warning("the kernel %s is not used, for its result is off by %.2g here", self.name, distance)
        return distance <= bound


def distance(ours: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 distance, or that of the worst number from the size of all, a WORST-th of it, if that is
    more; NaN where there is one.
    """
    error = ours - expected
    size = np.linalg.norm(expected)
    worst = np.max(np.abs(error)) * np.sqrt(error.size) / WORST
    return float(np.max([np.linalg.norm(error), worst]) / size)


def _kind(argument: Any) -> Any:
    """What a kernel is compiled for: the type of an array, and its channels, unless it counts something."""
    if not isinstance(argument, mx.array):
        return argument
    return argument.dtype if argument.dtype == mx.int32 else (argument.dtype, argument.shape[-1])


def _arrays(result: Any) -> list[mx.array]:
    return [result] if isinstance(result, mx.array) else list(result)
