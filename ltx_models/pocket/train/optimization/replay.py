"""Record functions once as a CUDA graph, then replay them on the GPU.

A small model's step is thousands of short kernels, and the host takes longer to launch them than the GPU to run them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

__all__ = ["Replayed"]

WARM_UPS = 2
"""Calls before a recording, in which libraries choose their algorithms and reserve their memory."""


class Replayed:
    """A function of a kind and of tensors that is recorded and replayed. On a CPU each call runs the function itself.

    On a GPU it is recorded at the first call of each kind, and replayed after that. So it must do the same for all
    tensors of a kind, which have the same shapes, and never wait for a value; random numbers are new at each call, by
    the device's seed. The tensor that it returns is overwritten by its next call.

    The function is called several times before its recording; what it accumulates must tolerate that.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._recordings: dict[Hashable, tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...], Any]] = {}
        self._memory: Any = None

    def __call__(self, kind: Hashable, *tensors: torch.Tensor) -> Any:
        """Return what the function returns."""
        if not tensors[0].is_cuda:
            return self.function(kind, *tensors)
        if kind not in self._recordings:
            self._recordings[kind] = self._record(kind, tensors)
        graph, inputs, result = self._recordings[kind]
        torch._foreach_copy_(inputs, tensors)
        graph.replay()
        return result

    def _record(
        self, kind: Hashable, tensors: tuple[torch.Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...], Any]:
        """Return the graph, the tensors that it reads, and its results, without using up random numbers."""
        inputs = tuple(tensor.detach().clone() for tensor in tensors)
        before = torch.cuda.get_rng_state()
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self.function(kind, *inputs)
        torch.cuda.current_stream().wait_stream(beside)
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            result = self.function(kind, *inputs)
        torch.cuda.set_rng_state(before)
        return graph, inputs, result
