"""Phase 2: transformer and text encoder learn the velocity from noise to latents (rectified flow, Liu et al., 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ltx_models.pocket.train.data import Captions, seeds, step_rngs
from ltx_models.pocket.train.latents import Cache, fill_caches
from ltx_models.pocket.train.models import Denoiser, build_denoiser, fused
from ltx_models.pocket.train.optimization.loop import Clock, Objective, Trainer
from ltx_models.pocket.train.optimization.recipe import Bucket, Phase, Recipe
from ltx_models.pocket.train.vae import autocast, batches

__all__ = [
    "FRAME_RATES",
    "batches_of_latents",
    "denoiser_objective",
    "draw_frame_rate",
    "new_denoiser",
    "train_denoiser",
]

FRAME_RATES = (12.0, 12.0, 12.0, 12.0, 8.0, 16.0, 24.0, 25.0, 30.0)
"""Frame rates, each as often as it is listed. A movement takes the whole clip at any rate, so none changes the picture.
"""
LOGIT_MEAN, LOGIT_STD = 0.3, 1.2
UNIFORM_SHARE = 0.15
"""The share of timesteps that are uniform in [0, 1]; the others are logit-normal (Esser et al., 2024), which rarely
come near 0 and 1.
"""


def train_denoiser(
    recipe: Recipe,
    vae: Any,
    captions: Captions,
    folder: Path,
    seconds: float | None,
    clock: Clock,
) -> tuple[Denoiser, bool]:
    """Return the denoiser, and whether it is done."""
    device = captions.empty.device
    denoiser = new_denoiser(recipe, device)
    trainer = Trainer("dit", denoiser, recipe.dit, folder, seconds)
    if not trainer.is_done:
        caches = fill_caches(vae, recipe, device)
        if not trainer.run(denoiser_objective(denoiser, caches, captions, recipe), clock):
            return denoiser, False
    return denoiser.eval().requires_grad_(False), True


def new_denoiser(recipe: Recipe, device: torch.device) -> Denoiser:
    """Return the denoiser before training; always the same."""
    torch.manual_seed(seeds(recipe.seed, "dit"))
    return fused(build_denoiser(recipe.sizes).to(device))


def denoiser_objective(denoiser: Denoiser, caches: list[Cache], captions: Captions, recipe: Recipe) -> Objective:
    """Return the objective: predict the velocity of any mixture of a cached clip's latents and noise."""
    by_bucket = {cache.bucket: cache for cache in caches}
    device = captions.empty.device

    def inputs(step: int) -> tuple[tuple[Bucket, int], tuple[torch.Tensor, ...]]:
        rng = step_rngs(recipe.seed, "dit", step)
        kind = batches_of_latents(recipe, recipe.dit, rng)
        return kind, (draw_frame_rate(rng, device),)

    def loss(kind: tuple[Bucket, int], frame_rate: torch.Tensor) -> torch.Tensor:
        bucket, count = kind
        cache = by_bucket[bucket]
        chosen = torch.randint(len(cache.numbers), (count,), device=device)
        latents = cache.latents[chosen].float()
        noise = torch.randn_like(latents)
        timestep = _timesteps(count, device)
        mixed = (1 - timestep[:, None, None]) * latents + timestep[:, None, None] * noise
        with autocast(device):
            ids = captions.draw(cache.numbers[chosen])
            velocity = denoiser(mixed, timestep, ids, bucket.latent, frame_rate)
        return F.mse_loss(velocity.float(), noise - latents)

    return Objective(inputs, loss)


def batches_of_latents(recipe: Recipe, phase: Phase, rng: np.random.Generator) -> tuple[Bucket, int]:
    """Return a bucket, and a number of its clips, a multiple of 16: for others the compiler would compile anew."""
    return batches(recipe.buckets, phase.batch, phase.most, lambda bucket: bucket.tokens, rng, multiple=16)


def draw_frame_rate(rng: np.random.Generator, device: torch.device) -> torch.Tensor:
    """Return one of FRAME_RATES, (1,), for a whole batch."""
    return torch.tensor([FRAME_RATES[rng.integers(len(FRAME_RATES))]], device=device)


def _timesteps(count: int, device: torch.device) -> torch.Tensor:
    logit_normal = torch.sigmoid(torch.randn(count, device=device) * LOGIT_STD + LOGIT_MEAN)
    uniform = torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < UNIFORM_SHARE, uniform, logit_normal)
