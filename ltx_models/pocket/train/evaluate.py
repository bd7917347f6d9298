"""What the trained models score as PyTorch runs them, at several sizes; and how well the VAE draws."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx_models.pocket.clips import to_frames
from ltx_models.pocket.scores import Score, Setting, score, write_scores
from ltx_models.pocket.train.data import seeds, token_ids, tokenizer_file
from ltx_models.pocket.train.latents import decode
from ltx_models.pocket.train.models import Denoiser
from ltx_models.pocket.train.recipe import GUIDANCE, STUDENT_TIMESTEPS, Bucket
from ltx_models.pocket.train.sample import Prompts, euler, uniform_timesteps
from ltx_models.pocket.train.vae import held_out_psnr
from ltx_models.tokenizer import Tokenizer

__all__ = ["SIZES", "evaluate", "render", "settings"]

TOKENS_AT_ONCE = 128 * 64
SIZES = (
    (128, 128, 25, 12.0, 1.0),
    (64, 64, 25, 12.0, 0.5),
    (160, 96, 25, 12.0, 0.5),
    (96, 160, 33, 12.0, 0.5),
    (128, 128, 49, 24.0, 0.5),
    (192, 192, 25, 12.0, 0.25),
    (256, 256, 49, 12.0, 0.125),
)
"""Width, height, frames, frame rate, and the part of the captions that are rendered so."""


def settings(by: str) -> Iterator[tuple[Setting, float]]:
    """What is to be scored, and on which part of the captions."""
    for model, steps, guidance in (("pocket", 8, GUIDANCE), ("pocket-distilled", len(STUDENT_TIMESTEPS), 1.0)):
        for width, height, frames, frame_rate, part in SIZES:
            size: dict[str, Any] = {"width": width, "height": height, "frames": frames, "frame_rate": frame_rate}
            yield Setting(model=model, by=by, steps=steps, guidance=guidance, **size), part


def evaluate(vae: Any, models: dict[str, Denoiser], folder: Path, count: int) -> list[Score]:
    """Scores of `count` captions into scores.json, and the VAE's PSNR into psnr.json."""
    device = next(vae.parameters()).device
    psnr = held_out_psnr(vae, Bucket(25, 128, 128), count, device)
    (folder / "psnr.json").write_text(json.dumps({"clips": count, "size": "128x128, 25 frames", "decibels": psnr}))
    scores = [
        score(setting, renderer(vae, models[setting.model]), max(1, round(count * part)))
        for setting, part in settings("PyTorch")
        if setting.model in models
    ]
    write_scores(folder / "scores.json", scores)
    return scores


def renderer(vae: Any, denoiser: Denoiser) -> Any:
    """What `score` renders with."""
    return lambda setting, captions: render(vae, denoiser, setting, captions)


def render(vae: Any, denoiser: Denoiser, setting: Setting, captions: Sequence[str]) -> Iterator[np.ndarray]:
    """Clips of captions, uint8 (F, H, W, 3), a batch at a time."""
    device = next(vae.parameters()).device
    tokenizer = Tokenizer(tokenizer_file())
    bucket = Bucket(setting.frames, setting.height, setting.width)
    at_once = max(1, TOKENS_AT_ONCE // bucket.tokens)
    torch.manual_seed(seeds("evaluate"))
    for start in range(0, len(captions), at_once):
        ids = token_ids(captions[start : start + at_once], tokenizer).to(device)
        prompts = Prompts.of(denoiser, ids, token_ids([""], tokenizer).to(device))
        channels = denoiser.transformer.config.in_channels
        noise = torch.randn(len(ids), bucket.tokens, channels, device=device)
        latents = euler(
            denoiser,
            noise,
            prompts,
            uniform_timesteps(setting.steps),
            guidance=setting.guidance,
            size=bucket.latent,
            frame_rate=setting.frame_rate,
        )
        for tokens in latents:
            yield to_frames(decode(vae, tokens[None], bucket)[0].cpu().numpy())
