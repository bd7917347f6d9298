"""Compute what an operation's Metal kernel gives, on a machine without Metal.

MLX generates a kernel's source while it traces a call, without a GPU. That source is compiled as C++ (`emulation.h`),
and run lane by lane on the same arrays.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_models.kernels.launch import Kernel, Operation

HERE = Path(__file__).parent
GUARD = 2**14
"""Values behind each array that a kernel must not touch."""
BITS = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int32": np.int32}
FLAGS = ("-std=gnu++17", "-O1", "-w", "-ffp-contract=off", "-shared", "-fPIC")
Raw = np.ndarray[Any, Any]


def compiler() -> str | None:
    """Return a C++ compiler of this machine."""
    return shutil.which("g++") or shutil.which("clang++")


@dataclass(frozen=True)
class Launch:
    """One call of a kernel: its source as MLX made it, its arrays as they are in memory, and how it is started."""

    source: str
    arrays: tuple[Raw, ...]
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    groups: int
    threads: int


class Undefined(Exception):
    """A kernel did what Metal leaves undefined: lanes that miss a barrier, or a write past a result's end."""


def trace(operation: Operation, arguments: Sequence[Any]) -> Launch:
    """Return what MLX would start on a Mac for an operation's arguments, whose kernel must be one that takes them."""
    launches: list[Launch] = []

    def call(
        kernel: Kernel,
        *arrays: mx.array,
        groups: int,
        threads: int,
        shapes: Sequence[tuple[int, ...]],
        **constants: Any,
    ) -> list[mx.array]:
        made = mx.fast.metal_kernel(
            f"ltx_{kernel.name}", kernel.inputs, kernel.outputs, kernel.metal[1], kernel.metal[0]
        )
        given = [mx.contiguous(array) for array in arrays]
        mx.eval(given)

        def start(*inputs: mx.array) -> list[mx.array]:
            outputs: list[mx.array] = made(
                inputs=list(inputs),
                template=[("THREADS", threads), *constants.items()],
                grid=(groups * threads, 1, 1),
                threadgroup=(threads, 1, 1),
                output_shapes=list(shapes),
                output_dtypes=[constants["T"]] * len(shapes),
                verbose=True,
            )
            return outputs

        with _printed() as printed, tempfile.TemporaryDirectory() as folder:
            mx.export_function(str(Path(folder, "traced")), start, *given)
        source = printed().split("```")[1]
        dtype = _name(constants["T"])
        launches.append(Launch(source, tuple(map(_raw, given)), dtype, tuple(map(tuple, shapes)), groups, threads))
        return [mx.zeros(shape, constants["T"]) for shape in shapes]

    original = Kernel.__call__
    Kernel.__call__ = call  # type: ignore[method-assign]
    try:
        operation.launch(*arguments)
    finally:
        Kernel.__call__ = original  # type: ignore[method-assign]
    (launch,) = launches
    return launch


class Emulation:
    """The kernels of several launches, compiled together."""

    def __init__(self, launches: Sequence[Launch], folder: Path) -> None:
        """Compile in `folder`. Raise CalledProcessError, with the compiler's words, for a source that is no C++."""
        sources = dict.fromkeys(launch.source for launch in launches)
        self._numbers = {source: number for number, source in enumerate(sources)}
        code = [f'#include "{HERE / "emulation.h"}"', _DEFINITIONS]
        code += [_translated(source, number) for source, number in self._numbers.items()]
        program = compiler()
        assert program is not None
        path = folder / "kernels.cpp"
        path.write_text("\n".join(code))
        done = subprocess.run([program, *FLAGS, path, "-o", folder / "kernels.so"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:5000]
        self._library = ctypes.CDLL(str(folder / "kernels.so"))

    def run(self, launch: Launch, *, backwards: bool = False) -> list[Raw]:
        """Return a launch's results in float32. backwards: the last simdgroup first. Raise Undefined."""
        inputs, results, pointers = iter(launch.arrays), [], []
        kept: list[Raw] = []
        shapes: dict[str, tuple[int, ...]] = {}
        remaining = iter(launch.shapes)
        for kind, name in _buffers(launch.source):
            if kind.startswith("device"):
                array = _poisoned(int(np.prod(next(remaining))) + GUARD, launch.dtype)
                results.append(array)
            elif name.endswith("_shape"):
                array = np.array(shapes[name.removesuffix("_shape")], np.int32)
            else:
                given = next(inputs)
                shapes[name] = given.shape
                array = np.concatenate([given.ravel(), np.zeros(GUARD, given.dtype)])
            kept.append(array)
            pointers.append(array.ctypes.data)
        addresses = (ctypes.c_void_p * len(pointers))(*pointers)
        run = self._library[f"run_{self._numbers[launch.source]}"]
        if not run(addresses, launch.groups, launch.threads, int(backwards)):
            raise Undefined("not every lane comes to every barrier")
        for array in results:
            if array[-GUARD:].tobytes() != _poisoned(GUARD, launch.dtype).tobytes():
                raise Undefined("something is written behind the end of a result")
        return [
            _values(array[:-GUARD], launch.dtype).reshape(shape)
            for array, shape in zip(results, launch.shapes, strict=True)
        ]


_DEFINITIONS = """
namespace emulation { Group* group; void (*body)(uint, uint); }
static void** given;
"""


def _buffers(source: str) -> list[tuple[str, str]]:
    """Return the type and the name of each array that a kernel gets, in order."""
    found = re.findall(
        r"^  (const (?:constant|device) \w+[*&]|device \w+\*) (\w+) \[\[buffer\((\d+)\)\]\]", source, re.M
    )
    assert [int(number) for *_, number in found] == list(range(len(found)))
    return [(kind, name) for kind, name, _ in found]


VALUES = {
    "threadgroup_position_in_grid": "uint3{position, 0, 0}",
    "thread_position_in_threadgroup": "uint3{lane, 0, 0}",
    "simdgroup_index_in_threadgroup": "lane / 32",
    "thread_index_in_simdgroup": "lane % 32",
}


def _translated(source: str, number: int) -> str:
    """Return a kernel in C++, and a function that starts it."""
    made = re.search(r"decltype\(([^)]*)\)", source)
    assert made is not None
    attributes = [name for _, name in re.findall(r"^  (uint3?) (\w+) \[\[\2\]\]", source, re.M)]
    arguments = [_argument(kind, place) for place, (kind, _) in enumerate(_buffers(source))]
    body = source[: source.index("template [[host_name(")]
    body = re.sub(r" ?\[\[(buffer\(\d+\)|\w+)\]\]", "", body)
    body = re.sub(r"threadgroup float (\w+)\[(.+)\];", r"float* \1 = emulation::shared_memory<(\2)>();", body)
    call = f"{made[1]}({', '.join([*arguments, *(VALUES[name] for name in attributes)])});"
    return f"""
namespace k{number} {{
{body}
void lane(uint position, uint lane) {{ (void)position; (void)lane; {call} }}
}}
extern "C" int run_{number}(void** arrays, uint groups, uint threads, int backwards) {{
  given = arrays;
  return emulation::run(groups, threads, backwards, k{number}::lane);
}}
"""


def _argument(kind: str, place: int) -> str:
    plain = kind.replace("constant ", "").replace("device ", "")
    return f"*({plain[:-1]}*)given[{place}]" if plain.endswith("&") else f"({plain})given[{place}]"


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def _raw(array: mx.array) -> Raw:
    """Return an array as it lies in memory; bfloat16 as its bits."""
    return np.array(array.view(mx.uint16)) if array.dtype == mx.bfloat16 else np.array(array)


def _values(raw: Raw, dtype: str) -> Raw:
    if dtype == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def _poisoned(size: int, dtype: str) -> Raw:
    """Return NaN, which shows wherever nothing was written."""
    return np.full(size, 0x7FC0 if dtype == "bfloat16" else np.nan, BITS[dtype])


@contextlib.contextmanager
def _printed() -> Iterator[Callable[[], str]]:
    """While inside, what C++ prints goes into a file; the function that this yields returns it afterwards."""
    flush = functools.partial(ctypes.CDLL(None).fflush, None)
    flush()
    saved = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        text: list[str] = []
        try:
            yield lambda: text[0]
        finally:
            flush()
            os.dup2(saved, 1)
            os.close(saved)
            file.seek(0)
            text.append(file.read().decode())
