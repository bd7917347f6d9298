"""The data of training: clips drawn on the device, and captions as token ids, without held-out combinations."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ltx_models.pocket.clips import Scenes, draw, sample_scenes
from ltx_models.pocket.grammar import Combination, caption, other_caption, split
from ltx_models.pocket.train.models import PADDING
from ltx_models.pocket.train.optimization.recipe import Bucket, Recipe
from ltx_models.text_encoders.tokenizer import Tokenizer

__all__ = [
    "OTHER",
    "Captions",
    "choose",
    "draw_clips",
    "number",
    "recoloured",
    "seeds",
    "step_rngs",
    "to_device",
    "token_ids",
    "training_scenes",
]

OTHER = -1
"""The number in place of a combination's, where a caption names none."""
MAX_TOKENS = 32
"""The number of tokens to which captions are padded; the longest has 28."""
VARIANTS = 32
"""The number of captions of each combination that training draws from."""
OTHER_CAPTIONS = 20_000


def seeds(*parts: int | str) -> int:
    """Return a number that depends on these parts alone."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def step_rngs(seed: int, phase: str, step: int) -> np.random.Generator:
    """Return the random generator of a step, and seed PyTorch's own on every device."""
    torch.manual_seed(seeds(seed, phase, step, "torch"))
    return np.random.default_rng(seeds(seed, phase, step, "numpy"))


def number(combination: Combination | None) -> int:
    """Return the index of a combination among those of training."""
    return OTHER if combination is None else split()[0].index(combination)


def choose(count: int, other_share: float, rng: np.random.Generator) -> np.ndarray:
    """Return numbers of combinations, all equally likely, and OTHER."""
    chosen = rng.integers(0, len(split()[0]), count)
    return np.where(rng.random(count) < other_share, OTHER, chosen)


def training_scenes(numbers: np.ndarray, rng: np.random.Generator) -> Scenes:
    """Return scenes of numbers of combinations; empty ones for OTHER."""
    trained = split()[0]
    return sample_scenes([None if index == OTHER else trained[index] for index in numbers], rng)


def recoloured(scenes: Scenes, share: float, rng: np.random.Generator) -> Scenes:
    """Return scenes with a share of them in any two colours, so that a VAE learns more than the captions' few."""
    chosen = (rng.random(len(scenes.radius)) < share)[:, None]
    colour, ground = rng.random((2, len(chosen), 3), np.float32)
    return scenes._replace(
        colour=np.where(chosen, colour, scenes.colour),
        top=np.where(chosen, ground, scenes.top),
        bottom=np.where(chosen, ground, scenes.bottom),
    )


def to_device(scenes: Scenes, device: torch.device) -> Scenes:
    """Return the scenes as tensors."""
    return scenes.map(lambda array: torch.from_numpy(array).to(device))


def draw_clips(scenes: Scenes, bucket: Bucket) -> torch.Tensor:
    """Return clips (B, 3, F, H, W) in [-1, 1], on the scenes' device."""
    clips: torch.Tensor = draw(scenes, bucket.frames, bucket.height, bucket.width, torch)
    return clips * 2 - 1


def token_ids(texts: Sequence[str], tokenizer: Tokenizer) -> torch.Tensor:
    """Return the ids of texts, (B, MAX_TOKENS), padded; the end token is always included."""
    ids = torch.full((len(texts), MAX_TOKENS), PADDING, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        encoded = tokenizer.encode(text)
        kept = [*encoded[: MAX_TOKENS - 1], encoded[-1]] if len(encoded) > MAX_TOKENS else encoded
        row[: len(kept)] = torch.tensor(kept)
    return ids


class Captions:
    """Captions of every combination of training, and of other things, as ids on the device.

    A step only gathers them: making captions anew would take longer than the step itself.
    """

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        rng = random.Random(seeds(recipe.seed, "captions"))  # noqa: S311
        self.empty_share = recipe.empty_share
        self.empty = token_ids([""], tokenizer).to(device)
        texts = list(_texts(recipe, rng))
        self.known = token_ids(texts, tokenizer).to(device, torch.int16).unflatten(0, (-1, VARIANTS))
        others = [other_caption(rng) for _ in range(OTHER_CAPTIONS)]
        self.other = token_ids(others, tokenizer).to(device, torch.int16)

    def draw(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return ids (B, MAX_TOKENS) of a random caption of each number (B,); some are empty."""
        count, device = len(numbers), numbers.device
        variant = torch.randint(VARIANTS, (count,), device=device)
        other = self.other[torch.randint(len(self.other), (count,), device=device)]
        known = self.known[numbers.clamp(min=0), variant]
        ids = torch.where((numbers == OTHER)[:, None], other, known).to(torch.int64)
        dropped = torch.rand(count, device=device) < self.empty_share
        return torch.where(dropped[:, None], self.empty, ids)


def _texts(recipe: Recipe, rng: random.Random) -> Iterator[str]:
    for combination in split()[0]:
        for _ in range(VARIANTS):
            yield caption(combination, rng, background=rng.random() >= recipe.groundless_share)


def tokenizer_file() -> Path:
    """Return the bundled tokenizer: a SentencePiece vocabulary of 280 pieces, which training does not change."""
    return Path(__file__).parents[1] / "tokenizer" / "spiece.model"
