"""Sample by Euler steps, with guidance or without."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ltx_models.pocket.train.models import Denoiser, FrameRate
from ltx_models.pocket.train.vae import autocast

__all__ = ["Prompts", "euler", "uniform_timesteps"]


@dataclass(frozen=True)
class Prompts:
    """Captions (B, N) as ids and embeddings; `empty` is one row, of the empty caption, for all."""

    ids: torch.Tensor
    embeddings: torch.Tensor
    empty_ids: torch.Tensor
    empty_embeddings: torch.Tensor

    @classmethod
    def of(cls, denoiser: Denoiser, ids: torch.Tensor, empty: torch.Tensor) -> Prompts:
        """Return prompts embedded by a denoiser's text encoder; `empty` are ids (1, N)."""
        with torch.no_grad(), autocast(ids.device):
            return cls(ids, denoiser.embed(ids), empty, denoiser.embed(empty))

    def guided(
        self,
        denoiser: Denoiser,
        x: torch.Tensor,
        timestep: float,
        guidance: float,
        size: tuple[int, int, int],
        frame_rate: FrameRate,
    ) -> torch.Tensor:
        """Return u + g (c - u), float32; c alone where g is 1. Both are computed as one batch."""
        count = len(x)
        if guidance == 1:
            return self._velocity(denoiser, x, timestep, self.embeddings, self.ids, size, frame_rate)
        embeddings = torch.cat([self.empty_embeddings.expand(count, -1, -1), self.embeddings])
        ids = torch.cat([self.empty_ids.expand(count, -1), self.ids])
        both = self._velocity(denoiser, torch.cat([x, x]), timestep, embeddings, ids, size, frame_rate)
        without, given = both.chunk(2)
        return without + guidance * (given - without)

    @staticmethod
    def _velocity(
        denoiser: Denoiser,
        x: torch.Tensor,
        timestep: float,
        embeddings: torch.Tensor,
        ids: torch.Tensor,
        size: tuple[int, int, int],
        frame_rate: FrameRate,
    ) -> torch.Tensor:
        timesteps = torch.full((len(x),), timestep, device=x.device)
        with torch.no_grad(), autocast(x.device):
            return denoiser.velocity(x, timesteps, embeddings, ids, size, frame_rate).float()


def euler(
    denoiser: Denoiser,
    x: torch.Tensor,
    prompts: Prompts,
    timesteps: Sequence[float],
    *,
    guidance: float,
    size: tuple[int, int, int],
    frame_rate: FrameRate,
) -> torch.Tensor:
    """Return latents at the last of the timesteps, from those at the first. Each step is x - (t - t')·v."""
    for now, then in itertools.pairwise(timesteps):
        x = x - (now - then) * prompts.guided(denoiser, x, now, guidance, size, frame_rate)
    return x


def uniform_timesteps(steps: int, first: float = 1.0, last: float = 0.0) -> list[float]:
    """Return `steps` equal steps from the first timestep to the last, both included."""
    return [first + (last - first) * index / steps for index in range(steps + 1)]
