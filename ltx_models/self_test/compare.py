"""Compare what the device computes with float32 on the CPU, and each kernel with its formula.

The models have a variant's own widths, one block each, and random weights, so that nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_models.benchmark.models import random_text_encoder, random_transformer, random_vae
from ltx_models.benchmark.parts import PROMPT_TOKENS, TIMESTEP
from ltx_models.families.architectures import Architecture
from ltx_models.families.variants import Variant
from ltx_models.kernels import Operation, backend
from ltx_models.kernels.launch import BOUNDS as KERNEL_BOUNDS
from ltx_models.kernels.launch import COMMAND_BUFFER_FAILED
from ltx_models.memory import DecodePlan, latent_size
from ltx_models.request import GenerationRequest
from ltx_models.sampling.latents import to_tokens
from ltx_models.transformers.ltxv import pixel_coordinates

__all__ = ["PARTS", "Compared", "compare_kernels", "compare_parts"]

TOKENS = (2, 16, 16)
"""Latent frames, rows and columns of the transformer's test; its kernels' test is of a whole video."""
TILE = (2, 8, 8)
"""Latent frames, rows and columns of the VAE's test: of the size for which MLX would use Winograd's transform."""
MOST_WORDS = 2000
"""The most characters of a compiler's message about a kernel that are shown."""
BOUNDS = {
    mx.bfloat16: {"transformer block": 0.02, "VAE tile": 0.04, "text encoder block": 0.06},
    mx.float32: {"transformer block": 1e-4, "VAE tile": 1e-4, "text encoder block": 1e-4},
}
"""The largest relative L2 distances from float32 on the CPU at which a part is right. In bfloat16 the distances are
0.006, 0.012 and 0.018 on an H200, and 0.006, 0.018 and 0.025 on a CPU, the tile's 0.021 there with 2B's widths;
Winograd's transform would make that 0.06 (simulated by noise of its size). A Mac's GPU has not been measured yet.
"""


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


def compare_parts(variant: Variant) -> Iterator[Compared]:
    """Yield one block of the transformer, one tile of the VAE's decode and one block of the text encoder."""
    small = dataclasses.replace(variant.architecture, layers=1, text_layers=1)
    dtype = mx.bfloat16 if mx.default_device() == mx.Device(mx.gpu) else mx.float32  # as renders are computed here
    for part, make in PARTS.items():
        with _on_cpu():
            expected = make(small, mx.float32)()
        compute = make(small, dtype)
        ours = compute()  # which compiles
        started = time.perf_counter()
        compute()
        yield Compared(part, _distance(ours, expected), BOUNDS[dtype][part], 1e3 * (time.perf_counter() - started))


def compare_kernels(variant: Variant) -> Iterator[Compared]:
    """Yield each kernel as the parts call it, once for each kind of arguments; nothing where there is no GPU.

    A kernel that fails is reported, since renders work without it, unless the GPU itself has failed.
    """
    if backend() is None:
        return
    small = dataclasses.replace(variant.architecture, layers=1, text_layers=1)
    size = latent_size(GenerationRequest(prompt="a video", seed=0).resolve(variant))
    for operation, arguments in _calls(small, (size.frames, size.height, size.width)):
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


def _dit_block(
    architecture: Architecture, dtype: mx.Dtype, size: tuple[int, int, int] | None = None
) -> Callable[[], np.ndarray]:
    size = size or TOKENS
    model = random_transformer(architecture, dtype)
    text = mx.random.normal((1, PROMPT_TOKENS, architecture.caption_channels), key=mx.random.key(0)).astype(dtype)
    shape = 1, architecture.latent_channels, *size
    tokens = to_tokens(np.random.default_rng(1).standard_normal(shape, np.float32)).astype(dtype)
    coordinates = pixel_coordinates(*size, causal=model.config.causal_temporal_positioning)
    conditioning = model.prepare(text, None, coordinates, 25.0)
    return lambda: _array(model(tokens, mx.array([[TIMESTEP]]), conditioning, None))


def _vae_tile(architecture: Architecture, dtype: mx.Dtype) -> Callable[[], np.ndarray]:
    model = random_vae(architecture, dtype)
    latents = np.random.default_rng(2).standard_normal((1, architecture.latent_channels, *TILE), np.float32)
    plan = DecodePlan(10**9)
    return lambda: np.concatenate(list(model.decode_chunks(mx.array(latents), 0.05, [plan], _float32)))


def _text_block(architecture: Architecture, dtype: mx.Dtype) -> Callable[[], np.ndarray]:
    model = random_text_encoder(architecture, dtype)
    ids = mx.arange(PROMPT_TOKENS)[None] % architecture.vocabulary
    return lambda: _array(model(ids, mx.ones(ids.shape, mx.int32)))


PARTS: dict[str, Callable[[Architecture, mx.Dtype], Callable[[], np.ndarray]]] = {
    "transformer block": _dit_block,
    "VAE tile": _vae_tile,
    "text encoder block": _text_block,
}
"""Functions that build each part in a precision, and return a function that computes it."""


def _calls(architecture: Architecture, size: tuple[int, int, int]) -> list[tuple[Operation, tuple[Any, ...]]]:
    """Return the arguments in bfloat16 with which the parts call kernels, the first of each kind.

    The transformer is called for a video of the given size, since no CPU has to compute the same. Nothing is compiled
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
        for make in PARTS.values():
            compute = (
                _dit_block(architecture, mx.bfloat16, size) if make is _dit_block else make(architecture, mx.bfloat16)
            )
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


def _float32(result: mx.array) -> mx.array:
    return result.astype(mx.float32)


def _array(result: mx.array) -> np.ndarray:
    return np.array(_float32(result))


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
