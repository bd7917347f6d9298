"""Latents as the denoiser sees them: normalized, as tokens; and a cache of those of drawn clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ltx_models.pocket.train.data import choose, draw_clips, seeds, step_rngs, to_device, training_scenes
from ltx_models.pocket.train.optimization.recipe import Bucket, Recipe
from ltx_models.pocket.train.vae import autocast

__all__ = ["Cache", "decode", "fill_caches", "normalize_by_data"]

ENCODED_AT_ONCE = 64 * 25 * 128 * 128
"""Pixels that are encoded at once."""
MEASURED_CLIPS = 1024
SMALLEST_STD = 1e-4


def normalize_by_data(vae: Any, recipe: Recipe, folder: Path, device: torch.device) -> None:
    """Set the VAE's mean and deviation of latents by channel, from clips of the commonest size; kept in a file."""
    path = folder / "normalization.safetensors"
    if not path.is_file():
        bucket = max(recipe.buckets, key=lambda bucket: bucket.weight)
        rng = step_rngs(recipe.seed, "normalization", 0)
        count = min(MEASURED_CLIPS, bucket.clips)
        latents = _encode(vae, choose(count, recipe.other_share, rng), bucket, rng, device).float()
        std, mean = torch.std_mean(latents, dim=(0, 1))
        save_file({"mean": mean.cpu(), "std": std.clamp(min=SMALLEST_STD).cpu()}, path)
    measured = load_file(path)
    vae.latents_mean.copy_(measured["mean"])
    vae.latents_std.copy_(measured["std"])


@dataclass
class Cache:
    """The latents of clips of one size.

    Attributes:
        bucket: The size.
        latents: (N, F·H·W, C), normalized, in bfloat16.
        numbers: The numbers of their combinations, (N,).
    """

    bucket: Bucket
    latents: torch.Tensor
    numbers: torch.Tensor


def fill_caches(vae: Any, recipe: Recipe, device: torch.device) -> list[Cache]:
    """Return clips of every bucket, the same every time, with about as many of each combination."""
    caches = []
    for bucket in recipe.buckets:
        rng = step_rngs(recipe.seed, "cache", seeds(bucket.frames, bucket.height, bucket.width))
        numbers = choose(bucket.clips, recipe.other_share, rng)
        latents = _encode(vae, numbers, bucket, rng, device)
        normalized = ((latents.float() - vae.latents_mean) / vae.latents_std).to(torch.bfloat16)
        caches.append(Cache(bucket, normalized, torch.from_numpy(numbers).to(device)))
    return caches


def _encode(
    vae: Any, numbers: np.ndarray, bucket: Bucket, rng: np.random.Generator, device: torch.device
) -> torch.Tensor:
    at_once = max(1, ENCODED_AT_ONCE // bucket.pixels)
    parts = []
    for start in range(0, len(numbers), at_once):
        scenes = to_device(training_scenes(numbers[start : start + at_once], rng), device)
        clips = draw_clips(scenes, bucket)
        with torch.no_grad(), autocast(device):
            parts.append(vae.encode(clips).latent_dist.mean.flatten(2).transpose(1, 2).to(torch.bfloat16))
    return torch.cat(parts)


def decode(vae: Any, tokens: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """Decode normalized latents (B, F·H·W, C) to clips (B, 3, F, H, W) in [0, 1], in the VAE's own precision."""
    latents = tokens.float() * vae.latents_std + vae.latents_mean
    with torch.no_grad():
        clips: torch.Tensor = vae.decode(latents.transpose(1, 2).unflatten(2, bucket.latent)).sample
    return (clips.float().clamp(-1, 1) + 1) / 2
