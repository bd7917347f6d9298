"""Phase 2: transformer and text encoder learn the velocity from noise to latents (rectified flow, Liu et al., 2022)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ltx_models.pocket.train.data import Captions, seeds, step_rngs
from ltx_models.pocket.train.latents import Cache, fill_caches
from ltx_models.pocket.train.loop import Clock, Trainer
from ltx_models.pocket.train.models import Denoiser, build_denoiser
from ltx_models.pocket.train.recipe import Recipe
from ltx_models.pocket.train.vae import autocast, batches

__all__ = ["FRAME_RATES", "denoiser_loss", "draw_frame_rate", "new_denoiser", "train_denoiser"]

FRAME_RATES = (12.0, 12.0, 12.0, 12.0, 8.0, 16.0, 24.0, 25.0, 30.0)
"""As often as they stand here. A movement takes the whole clip, however long that is, so none means another picture."""
LOGIT_MEAN, LOGIT_STD = 0.3, 1.2
UNIFORM_SHARE = 0.15
"""Timesteps are logit-normal (Esser et al., 2024), but for a share that reaches 0 and 1, where that hardly comes."""


def train_denoiser(
    recipe: Recipe,
    vae: Any,
    captions: Captions,
    folder: Path,
    seconds: float | None,
    clock: Clock,
) -> tuple[Denoiser, bool]:
    """The denoiser, and whether it is done."""
    device = captions.empty.device
    denoiser = new_denoiser(recipe, device)
    trainer = Trainer("dit", denoiser, recipe.dit, folder, seconds)
    if not trainer.is_done:
        caches = fill_caches(vae, recipe, device)
        if not trainer.run(denoiser_loss(denoiser, caches, captions, recipe), clock):
            return denoiser, False
    return denoiser.eval().requires_grad_(False), True


def new_denoiser(recipe: Recipe, device: torch.device) -> Denoiser:
    """As it is before training; always the same."""
    torch.manual_seed(seeds(recipe.seed, "dit"))
    return build_denoiser(recipe.sizes).to(device)


def denoiser_loss(
    denoiser: Denoiser, caches: list[Cache], captions: Captions, recipe: Recipe
) -> Callable[[int], torch.Tensor]:
    """The loss of a step, by its number."""
    by_bucket = {cache.bucket: cache for cache in caches}

    def loss_of_step(step: int) -> torch.Tensor:
        rng = step_rngs(recipe.seed, "dit", step)
        bucket, count = batches(recipe.buckets, recipe.dit.batch, recipe.dit.most, lambda b: b.tokens, rng)
        cache = by_bucket[bucket]
        chosen = torch.randint(len(cache.numbers), (count,), device=cache.numbers.device)
        latents = cache.latents[chosen].float()
        noise = torch.randn_like(latents)
        timestep = _timesteps(count, latents.device)
        mixed = (1 - timestep[:, None, None]) * latents + timestep[:, None, None] * noise
        with autocast(latents.device):
            ids = captions.draw(cache.numbers[chosen])
            velocity = denoiser(mixed, timestep, ids, bucket.latent, draw_frame_rate(rng))
        return F.mse_loss(velocity.float(), noise - latents)

    return loss_of_step


def draw_frame_rate(rng: np.random.Generator) -> float:
    """One of FRAME_RATES, for a whole batch."""
    return FRAME_RATES[rng.integers(len(FRAME_RATES))]


def _timesteps(count: int, device: torch.device) -> torch.Tensor:
    logit_normal = torch.sigmoid(torch.randn(count, device=device) * LOGIT_STD + LOGIT_MEAN)
    uniform = torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < UNIFORM_SHARE, uniform, logit_normal)
