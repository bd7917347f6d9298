"""Score the trained models in PyTorch at several sizes, and how well the VAE draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx_models.pocket.clips import to_frames
from ltx_models.pocket.scores import Score, Setting, score, setting_of, write_scores
from ltx_models.pocket.train.data import seeds, token_ids, tokenizer_file
from ltx_models.pocket.train.latents import decode
from ltx_models.pocket.train.models import Denoiser
from ltx_models.pocket.train.optimization.recipe import Bucket
from ltx_models.pocket.train.sample import Prompts, euler, uniform_timesteps
from ltx_models.pocket.train.vae import Reconstruction, held_out_reconstruction
from ltx_models.text_encoders.tokenizer import Tokenizer

__all__ = ["evaluate", "measure_vae", "render"]

CLIPS_DRAWN_AGAIN = Bucket(25, 128, 128)
TOKENS_AT_ONCE = 128 * 64
DrawNoise = Callable[[int, tuple[int, ...]], np.ndarray]
"""A function that returns the noise of the n-th caption, in the shape (1, C, F, H, W) of its latents."""
PARTS = {"default": 1.0, "small": 0.5, "wide": 0.5, "tall": 0.5, "long": 0.5, "medium": 0.25, "large": 0.125}
"""The fraction of the captions that is rendered at each of SIZES."""


def measure_vae(vae: Any, folder: Path, count: int) -> Reconstruction:
    """Measure how well the VAE draws `count` held-out clips, and write that to reconstruction.json."""
    drawn = held_out_reconstruction(vae, CLIPS_DRAWN_AGAIN, count, next(vae.parameters()).device)
    size = f"{CLIPS_DRAWN_AGAIN.width}x{CLIPS_DRAWN_AGAIN.height}, {CLIPS_DRAWN_AGAIN.frames} frames"
    (folder / "reconstruction.json").write_text(json.dumps(drawn._asdict() | {"size": size}))
    return drawn


def evaluate(vae: Any, models: dict[str, Denoiser], folder: Path, count: int) -> list[Score]:
    """Return the scores of `count` captions, fewer at other sizes than the default; write them to scores.json."""
    settings = [(setting_of(model, "PyTorch", size), part) for model in models for size, part in PARTS.items()]
    with torch.compiler.set_stance("force_eager"):  # each of the sizes would else be compiled for
        scores = [
            score(setting, renderer(vae, models[setting.model]), max(1, round(count * part)))
            for setting, part in settings
        ]
    write_scores(folder / "scores.json", scores)
    return scores


def renderer(vae: Any, denoiser: Denoiser) -> Any:
    """Return a function with which `score` renders."""
    return lambda setting, captions: render(vae, denoiser, setting, captions)


def render(
    vae: Any, denoiser: Denoiser, setting: Setting, captions: Sequence[str], draw_noise: DrawNoise | None = None
) -> Iterator[np.ndarray]:
    """Yield clips of captions, uint8 (F, H, W, 3), a batch at a time; `draw_noise` replaces PyTorch's own noise."""
    device = next(vae.parameters()).device
    tokenizer = Tokenizer(tokenizer_file())
    bucket = Bucket(setting.frames, setting.height, setting.width)
    at_once = max(1, TOKENS_AT_ONCE // bucket.tokens)
    torch.manual_seed(seeds("evaluate"))
    for start in range(0, len(captions), at_once):
        ids = token_ids(captions[start : start + at_once], tokenizer).to(device)
        prompts = Prompts.of(denoiser, ids, token_ids([""], tokenizer).to(device))
        channels = denoiser.transformer.config.in_channels
        if draw_noise is None:
            noise = torch.randn(len(ids), bucket.tokens, channels, device=device)
        else:
            drawn = [draw_noise(start + index, (1, channels, *bucket.latent)) for index in range(len(ids))]
            noise = torch.from_numpy(np.concatenate(drawn)).to(device).flatten(2).transpose(1, 2)
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
