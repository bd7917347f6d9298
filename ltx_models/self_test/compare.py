"""Compare what the device computes with float32 on the CPU, and each kernel with its formula.

The models have a variant's own widths, one block each, and random weights, so that nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_models.families.family import named
from ltx_models.families.variants import Variant
from ltx_models.kernels import Operation, backend
from ltx_models.kernels.launch import BOUNDS as KERNEL_BOUNDS
from ltx_models.kernels.launch import COMMAND_BUFFER_FAILED
from ltx_models.memory import latent_size
from ltx_models.request import GenerationRequest

__all__ = ["Compared", "Parts", "compare_kernels", "compare_parts"]

MOST_WORDS = 2000
"""The most characters of a compiler's message about a kernel that are shown."""


@dataclasses.dataclass(kw_only=True)
class Parts:
    """The parts of a family that are compared, by name.

    Attributes:
        make: Functions of an architecture and a precision that build each part, and return a function that computes it.
        bounds: For each precision, the largest relative L2 distance from float32 on the CPU at which a part is right.
        shrink: Returns an architecture of the same widths and as few blocks as the parts need.
        whole: The parts that take, as a third argument, latent frames, rows and columns of a whole video, since kernels
            are launched by size.
    """

    make: dict[str, Callable[..., Callable[[], np.ndarray]]]
    bounds: Mapping[mx.Dtype, Mapping[str, float]]
    shrink: Callable[[Any], Any]
    whole: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Compared:
    """The comparison of a part.

    Attributes:
        part: Its name.
        distance: The relative L2 distance from the expected result.
        bound: The largest distance at which it is right.
        milliseconds: How long it takes.
        plain_milliseconds: How long a kernel's formula takes; 0 for other parts.
        problem: Why a kernel gave no result; "" if it did.
    """

    part: str
    distance: float
    bound: float
    milliseconds: float
    plain_milliseconds: float = 0.0
    problem: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the distance is within its bound; NaN is not."""
        return self.distance <= self.bound


def parts_of(variant: Variant) -> Parts:
    """Return the parts of a variant's family; none where it names none."""
    place: Any = variant.family.compared and named(variant.family.compared)
    return place or Parts(make={}, bounds={}, shrink=lambda architecture: architecture)


def compare_parts(variant: Variant) -> Iterator[Compared]:
    """Yield each part of the variant's family."""
    parts = parts_of(variant)
    small = parts.shrink(variant.architecture)
    dtype = mx.bfloat16 if mx.default_device() == mx.Device(mx.gpu) else mx.float32  # as renders are computed here
    for part, make in parts.make.items():
        with _on_cpu():
            expected = make(small, mx.float32)()
        compute = make(small, dtype)
        ours = compute()  # which compiles
        started = time.perf_counter()
        compute()
        yield Compared(
            part, _distance(ours, expected), parts.bounds[dtype][part], 1e3 * (time.perf_counter() - started)
        )


def compare_kernels(variant: Variant) -> Iterator[Compared]:
    """Yield each kernel as the parts call it, once for each kind of arguments; nothing where there is no GPU.

    A kernel that fails is reported, since renders work without it, unless the GPU itself has failed.
    """
    if backend() is None:
        return
    parts = parts_of(variant)
    size = latent_size(GenerationRequest(prompt="a video", seed=0).resolve(variant), variant.family.limits)
    for operation, arguments in _calls(
        parts, parts.shrink(variant.architecture), (size.frames, size.height, size.width)
    ):
        dtype, shape = next((value.dtype, value.shape) for value in arguments if isinstance(value, mx.array))
        part, bound = f"kernel {operation.name}, {'x'.join(map(str, shape))}", KERNEL_BOUNDS[dtype]
        mx.synchronize()
        try:
            kernel, plain = (_time(function, arguments) for function in (operation.launch, operation.plain))
            distance = operation.distance(*arguments)
        except Exception as error:
            if COMMAND_BUFFER_FAILED in str(error):
                raise
            yield Compared(part, math.inf, bound, 0.0, problem=str(error)[:MOST_WORDS] or type(error).__name__)
        else:
            yield Compared(part, distance, bound, kernel, plain)


def _calls(parts: Parts, architecture: Any, size: tuple[int, int, int]) -> list[tuple[Operation, tuple[Any, ...]]]:
    """Return the arguments in bfloat16 with which the parts call kernels, the first of each kind.

    Parts that can are called for a video of the given size, since no CPU has to compute the same. Nothing is compiled
    meanwhile: compiled functions do not call operations again, and a function that is being compiled has no values yet.
    """
    calls: dict[Any, tuple[Operation, tuple[Any, ...]]] = {}
    call = Operation.__call__

    def noting(operation: Operation, *arguments: Any) -> Any:
        kind = operation.name, tuple(getattr(argument, "shape", argument) for argument in arguments)
        if operation._fits(*arguments) and kind not in calls:
            arrays = [argument for argument in arguments if isinstance(argument, mx.array)]
            mx.eval(arrays)
            calls[kind] = operation, arguments
        return call(operation, *arguments)

    Operation.__call__ = noting  # type: ignore[method-assign,assignment]
    mx.disable_compile()
    try:
        for part, make in parts.make.items():
            compute = make(architecture, mx.bfloat16, *([size] if part in parts.whole else []))
            compute()
    finally:
        mx.enable_compile()
        Operation.__call__ = call  # type: ignore[method-assign]
    return list(calls.values())


def _time(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """Return the milliseconds of one call, after one that compiles."""
    mx.eval(function(*arguments))
    started = time.perf_counter()
    mx.eval(function(*arguments))
    return 1e3 * (time.perf_counter() - started)


def _distance(ours: np.ndarray, expected: np.ndarray) -> float:
    a, b = ours.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    device = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    try:
        yield
    finally:
        mx.set_default_device(device)
