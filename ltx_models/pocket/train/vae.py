"""Phase 1: the autoencoder learns to draw every clip again from its latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ltx_models.pocket.grammar import split
from ltx_models.pocket.train.data import choose, draw_clips, seeds, step_rngs, training_clips
from ltx_models.pocket.train.loop import Clock, Trainer
from ltx_models.pocket.train.models import build_vae
from ltx_models.pocket.train.recipe import Bucket, Recipe

__all__ = ["autocast", "batches", "held_out_psnr", "reconstruction_loss", "train_vae", "vae_loss"]


def train_vae(
    recipe: Recipe, folder: Path, device: torch.device, seconds: float | None, clock: Clock
) -> tuple[Any, bool]:
    """The autoencoder, and whether it is done."""
    torch.manual_seed(seeds(recipe.seed, "vae"))
    vae = build_vae(recipe.sizes).to(device, memory_format=torch.channels_last_3d)
    trainer = Trainer("vae", vae, recipe.vae, folder, seconds)
    if not trainer.is_done and not trainer.run(vae_loss(vae, recipe, device), clock):
        return vae, False
    return vae.eval().requires_grad_(False), True


def vae_loss(vae: Any, recipe: Recipe, device: torch.device) -> Callable[[int], torch.Tensor]:
    """The loss of a step, by its number."""

    def loss_of_step(step: int) -> torch.Tensor:
        rng = step_rngs(recipe.seed, "vae", step)
        bucket, count = batches(recipe.vae_buckets, recipe.vae.batch, recipe.vae.most, lambda b: b.pixels, rng)
        clips = training_clips(choose(count, recipe.other_share, rng), bucket, rng, device)
        with autocast(device):
            mean = vae.encode(clips).latent_dist.mean
            drawn = vae.decode(mean + torch.randn_like(mean) * recipe.latent_noise).sample
        return reconstruction_loss(drawn.float(), clips) + recipe.latent_penalty * mean.float().square().mean()

    return loss_of_step


def reconstruction_loss(drawn: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Squares of errors, and of those in the differences between neighbours, so that edges count for more.

    Absolute errors alone would be content with an empty background, which is right nearly everywhere; a few of them
    make small errors smaller.
    """
    error = drawn - clips
    edges = error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()
    return 4 * error.square().mean() + 2 * edges + 0.3 * error.abs().mean()


def batches(
    buckets: tuple[Bucket, ...], amount: int, most: int, size: Callable[[Bucket], int], rng: Any
) -> tuple[Bucket, int]:
    """A bucket by its weight, and how many of its clips are about `amount` by their `size`."""
    weights = [bucket.weight for bucket in buckets]
    bucket = buckets[rng.choice(len(buckets), p=[weight / sum(weights) for weight in weights])]
    return bucket, max(1, min(most, round(amount / size(bucket))))


def held_out_psnr(vae: Any, bucket: Bucket, count: int, device: torch.device) -> float:
    """Mean PSNR in dB of clips of held-out combinations, of a range of 1, without noise in the latents."""
    rng = step_rngs(0, "psnr", 0)
    values: list[float] = []
    for start in range(0, count, 8):
        clips = draw_clips(split()[1][start : min(start + 8, count)], bucket, rng, device)
        with torch.no_grad():
            drawn = vae.decode(vae.encode(clips).latent_dist.mean).sample.clamp(-1, 1)
        errors = F.mse_loss(drawn.float() / 2, clips / 2, reduction="none").flatten(1).mean(1)
        values += [-10 * math.log10(max(error, 1e-10)) for error in errors.tolist()]
    return sum(values) / len(values)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU; a CPU is faster without."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
