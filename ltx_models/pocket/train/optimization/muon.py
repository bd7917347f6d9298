"""Muon (Jordan et al., 2024): momentum whose matrices are made orthogonal, so that a step turns all directions alike.

It trains the weights of layers inside of blocks; AdamW trains the first and last layers, and what is not a matrix. The
VAE learns where shapes are in a fraction of the steps that it takes with AdamW alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ltx_models.pocket.train.optimization.replay import Replayed

__all__ = ["Muon", "orthogonalized", "split_parameters"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""The coefficients of a quintic; five iterations of it bring all singular values of a matrix of norm 1 near 1."""
ITERATIONS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized. Kernels are treated as matrices, a row for each output channel.

    `lr` is the spectral norm of a step, times √(rows / columns) where there are more rows.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self._directions = Replayed(lambda _, *ahead: _orthogonalized_by_shape(ahead))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - what all optimizers take
        """Take a step; a parameter without a gradient stays unchanged."""
        for index, group in enumerate(self.param_groups):
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            momenta = [self._momentum(parameter) for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
            torch._foreach_add_(parameters, self._directions(index, *ahead), alpha=-group["lr"])

    def _momentum(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: torch.Tensor = state["momentum"]
        return momentum


def _orthogonalized_by_shape(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return each matrix as `orthogonalized`, scaled to its shape; those of the same shape are computed together."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index, weight in enumerate(weights):
        by_shape.setdefault(weight.shape, []).append(index)
    directions = list(weights)
    for shape, indices in by_shape.items():
        matrices = torch.stack([weights[index].flatten(1) for index in indices])
        rows, columns = matrices.shape[1:]
        for index, update in zip(indices, orthogonalized(matrices) * max(1.0, rows / columns) ** 0.5, strict=True):
            directions[index] = update.view(shape)
    return directions


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearest matrices (N, rows, columns) whose singular values are all about the same; float32."""
    work = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices
    tall = work.shape[1] > work.shape[2]
    work = work.mT if tall else work
    work = work / (work.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = work @ work.mT
        work = a * work + (b * square + c * square @ square) @ work
    return (work.mT if tall else work).float().contiguous()


def split_parameters(module: torch.nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the parameters for Muon, the weights of layers inside of blocks, and those for AdamW, all others."""
    matrices = {
        layer.weight
        for name, layer in module.named_modules()
        if "block" in name and isinstance(layer, torch.nn.Linear | torch.nn.Conv3d)
    }
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [each for each in trained if each in matrices], [each for each in trained if each not in matrices]
