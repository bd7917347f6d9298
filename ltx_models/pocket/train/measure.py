"""Measure how long a step takes on this machine, to choose batches and times."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import click
import torch

from ltx_models.pocket.train.data import Captions, tokenizer_file
from ltx_models.pocket.train.distil import student_objective
from ltx_models.pocket.train.dit import denoiser_objective, new_denoiser
from ltx_models.pocket.train.latents import Cache
from ltx_models.pocket.train.models import build_vae
from ltx_models.pocket.train.optimization.loop import Gradients, Objective, make_optimizers
from ltx_models.pocket.train.optimization.recipe import Bucket, Phase, Recipe
from ltx_models.pocket.train.vae import vae_objective
from ltx_models.text_encoders.tokenizer import Tokenizer

__all__ = ["measure"]

WARM_UP, MEASURED = 3, 8
FACTORS = (1.0, 2.0)
NOTHING = Phase(steps=0, batch=0, most=0, rate=0.0, matrix_rate=0.0, warmup=0, share=0.0)
"""A phase that learns nothing."""


def measure(recipe: Recipe, device: torch.device) -> None:
    """Print milliseconds a step and the peak of memory, of the commonest clips and of the largest.

    They are measured at the recipe's batch size, and at twice that: if the time then hardly grows, the device was not
    busy.
    """
    vae = build_vae(recipe.sizes).to(device, memory_format=torch.channels_last_3d)
    captions = Captions(recipe, Tokenizer(tokenizer_file()), device)
    denoiser, student = new_denoiser(recipe, device), new_denoiser(recipe, device)
    for factor in FACTORS:
        scaled = _with_batches(recipe, factor)
        for bucket in _telling(recipe.vae_buckets):
            only = dataclasses.replace(scaled, vae_buckets=(bucket,))
            _measure(f"vae, batch x{factor:g}", bucket, vae, vae_objective(vae, only, device), device)
        for bucket in _telling(recipe.buckets):
            only = dataclasses.replace(scaled, buckets=(bucket,))
            objective = denoiser_objective(denoiser, [_noise(bucket, recipe, device)], captions, only)
            _measure(f"dit, batch x{factor:g}", bucket, denoiser, objective, device)
            objective = student_objective(student, denoiser, captions, only)
            _measure(f"distil, batch x{factor:g}", bucket, student, objective, device)


def _telling(buckets: Iterable[Bucket]) -> list[Bucket]:
    """Return the commonest bucket, and the largest."""
    buckets = list(buckets)
    chosen = [max(buckets, key=lambda bucket: bucket.weight), max(buckets, key=lambda bucket: bucket.pixels)]
    return list(dict.fromkeys(chosen))


def _with_batches(recipe: Recipe, factor: float) -> Recipe:
    def scaled(phase: Phase) -> Phase:
        return dataclasses.replace(phase, batch=int(phase.batch * factor), most=int(phase.most * factor))

    return dataclasses.replace(recipe, vae=scaled(recipe.vae), dit=scaled(recipe.dit), distil=scaled(recipe.distil))


def _noise(bucket: Bucket, recipe: Recipe, device: torch.device) -> Cache:
    """Return noise in place of clips."""
    latents = torch.randn(64, bucket.tokens, recipe.sizes.latent_channels, device=device, dtype=torch.bfloat16)
    return Cache(bucket, latents, torch.arange(64, device=device))


def _measure(title: str, bucket: Bucket, module: Any, objective: Objective, device: torch.device) -> None:
    optimizers = [optimizer for optimizer, _ in make_optimizers(module, NOTHING)]
    gradients = Gradients([each for each in module.parameters() if each.requires_grad], objective)
    on_gpu = device.type == "cuda"
    start = 0.0
    for index in range(WARM_UP + MEASURED):
        if index == WARM_UP:
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
        gradients.compute(index)
        for optimizer in optimizers:
            optimizer.step()
    if on_gpu:
        torch.cuda.synchronize()
    taken = (time.perf_counter() - start) / MEASURED
    memory = f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if on_gpu else ""
    size = f"{bucket.width}x{bucket.height}x{bucket.frames}"
    click.echo(f"{title:20} {size:>12} {taken * 1000:9.1f} ms a step{memory}")
