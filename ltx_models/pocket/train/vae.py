"""Phase 1: the autoencoder learns to draw every clip again from its latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ltx_models.pocket.clips import Scenes, sample_scenes, to_frames
from ltx_models.pocket.grammar import split
from ltx_models.pocket.judge import judge_combination
from ltx_models.pocket.train.data import choose, draw_clips, recoloured, seeds, step_rngs, to_device, training_scenes
from ltx_models.pocket.train.models import build_vae
from ltx_models.pocket.train.optimization.loop import Clock, Objective, Trainer
from ltx_models.pocket.train.optimization.recipe import Bucket, Recipe

__all__ = [
    "Reconstruction",
    "autocast",
    "batches",
    "held_out_reconstruction",
    "near_edges",
    "reconstruction_loss",
    "train_vae",
    "vae_objective",
]

LEAST_STEP = 0.1
"""The least difference of neighbours that is an edge, in a picture of [-1, 1]."""
EDGE_PATCH = 4
"""The side in pixels of the squares that have weight because of an edge, with those around them."""


def train_vae(
    recipe: Recipe, folder: Path, device: torch.device, seconds: float | None, clock: Clock
) -> tuple[Any, bool]:
    """Return the autoencoder, and whether it is done."""
    torch.manual_seed(seeds(recipe.seed, "vae"))
    vae = build_vae(recipe.sizes).to(device, memory_format=torch.channels_last_3d)
    trainer = Trainer("vae", vae, recipe.vae, folder, seconds)
    if not trainer.is_done and not trainer.run(vae_objective(vae, recipe, device), clock):
        return vae, False
    return vae.eval().requires_grad_(False), True


def vae_objective(vae: Any, recipe: Recipe, device: torch.device) -> Objective:
    """Return the objective: draw clips again from their latents, which are mixed with a little noise."""

    def inputs(step: int) -> tuple[Bucket, tuple[torch.Tensor, ...]]:
        rng = step_rngs(recipe.seed, "vae", step)
        bucket, count = batches(recipe.vae_buckets, recipe.vae.batch, recipe.vae.most, lambda b: b.pixels, rng)
        scenes = training_scenes(choose(count, recipe.other_share, rng), rng)
        return bucket, to_device(recoloured(scenes, recipe.recoloured_share, rng), device)

    def loss(bucket: Bucket, *scenes: torch.Tensor) -> torch.Tensor:
        clips = draw_clips(Scenes(*scenes), bucket)
        with autocast(device):
            mean = vae.encode(clips).latent_dist.mean
            drawn = vae.decode(mean + torch.randn_like(mean) * recipe.latent_noise).sample
        return reconstruction_loss(drawn.float(), clips) + recipe.latent_penalty * mean.float().square().mean()

    return Objective(inputs, loss)


def reconstruction_loss(drawn: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Return squared errors, and those of the differences between neighbours, so that edges have more weight.

    Absolute errors alone would accept an empty background, which is right nearly everywhere; a few of them make small
    errors smaller. Half of a clip's weight lies near its edges, however short they are: small shapes would else be
    blots.
    """
    weights = (1 + near_edges(clips)) / 2
    error = drawn - clips
    across, down = error.diff(dim=-1).square(), error.diff(dim=-2).square()
    edges = (across * weights[..., 1:]).mean() + (down * weights[..., 1:, :]).mean()
    return 4 * (error.square() * weights).mean() + 2 * edges + 0.3 * (error.abs() * weights).mean()


def near_edges(clips: torch.Tensor) -> torch.Tensor:
    """Return weights (B, 1, F, H, W) of pixels, 0 except near edges; each clip's mean is 1, or 0 without edges."""
    steps = F.pad(clips.diff(dim=-1).abs(), (1, 0)) + F.pad(clips.diff(dim=-2).abs(), (0, 0, 1, 0))
    edges = (steps.amax(1) > LEAST_STEP).float()
    near = F.max_pool2d(F.max_pool2d(edges, EDGE_PATCH), 3, stride=1, padding=1)
    weights = near / near.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-4)
    return F.interpolate(weights, scale_factor=EDGE_PATCH)[:, None]


def batches(
    buckets: tuple[Bucket, ...], amount: int, most: int, size: Callable[[Bucket], int], rng: Any, *, multiple: int = 1
) -> tuple[Bucket, int]:
    """Return a bucket by its weight, and how many of its clips are about `amount` by their `size`.

    The number is a multiple of `multiple`, unless it is smaller.
    """
    weights = [bucket.weight for bucket in buckets]
    bucket = buckets[rng.choice(len(buckets), p=[weight / sum(weights) for weight in weights])]
    count = max(1, min(most, round(amount / size(bucket))))
    return bucket, count - count % multiple if count > multiple else count


class Reconstruction(NamedTuple):
    """Clips drawn again from their latents.

    Attributes:
        clips: The number of clips.
        decibels: The mean PSNR, of a range of 1.
        right: The fraction that the judge finds to show its combination.
    """

    clips: int
    decibels: float
    right: float


def held_out_reconstruction(vae: Any, bucket: Bucket, count: int, device: torch.device) -> Reconstruction:
    """Return the reconstruction of clips of held-out combinations, without noise in the latents."""
    rng = step_rngs(0, "held out", 0)
    decibels: list[float] = []
    right: list[bool] = []
    for start in range(0, count, 8):
        wanted = split()[1][start : min(start + 8, count)]
        clips = draw_clips(to_device(sample_scenes(wanted, rng), device), bucket)
        with torch.no_grad():
            drawn = vae.decode(vae.encode(clips).latent_dist.mean).sample.float().clamp(-1, 1)
        errors = F.mse_loss(drawn / 2, clips / 2, reduction="none").flatten(1).mean(1)
        decibels += [-10 * math.log10(max(error, 1e-10)) for error in errors.tolist()]
        frames = [to_frames(clip) for clip in ((drawn + 1) / 2).cpu().numpy()]
        right += [judge_combination(*each).right for each in zip(frames, wanted, strict=True)]
    return Reconstruction(count, sum(decibels) / count, sum(right) / count)


def autocast(device: torch.device) -> torch.autocast:
    """Return bfloat16 on a GPU; a CPU is faster without."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
