"""Muon (Jordan et al., 2024): momentum whose matrices are made orthogonal, so that a step turns all directions alike.

For the weights of layers inside of blocks; what is at the ends, and what is no matrix, is AdamW's. The VAE finds out
where shapes are in a fraction of the steps that it takes with AdamW alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

__all__ = ["Muon", "orthogonalized", "split_parameters"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose five iterations bring all singular values of a matrix of norm 1 near 1."""
ITERATIONS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized. Kernels count as matrices, a row for each output channel.

    lr: the spectral norm of a step, times √(rows / columns) where there are more rows.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - what all optimizers take
        """Matrices of the same shape are worked on together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for parameters in by_shape.values():
                self._step_alike(parameters, group["lr"])

    def _step_alike(self, parameters: Sequence[torch.Tensor], rate: float) -> None:
        gradients = [parameter.grad for parameter in parameters]
        momenta = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momenta.append(state["momentum"])
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        matrices = torch.stack([each.flatten(1) for each in ahead])
        rows, columns = matrices.shape[1:]
        updates = orthogonalized(matrices) * max(1.0, rows / columns) ** 0.5
        shaped = [update.view(parameter.shape) for update, parameter in zip(updates, parameters, strict=True)]
        torch._foreach_add_(list(parameters), shaped, alpha=-rate)


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """(N, rows, columns) → the nearest matrices whose singular values are all the same, about; float32."""
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
    """What is trained by Muon, and by AdamW: the weights of layers inside of blocks, and all else."""
    matrices = {
        layer.weight
        for name, layer in module.named_modules()
        if "block" in name and isinstance(layer, torch.nn.Linear | torch.nn.Conv3d)
    }
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [each for each in trained if each in matrices], [each for each in trained if each not in matrices]
