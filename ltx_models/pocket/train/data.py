"""What training sees: clips drawn on the device, and captions as token ids. Held-out combinations never appear."""

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
"""Stands for the number of a combination where a caption names none."""
MAX_TOKENS = 32
"""To which captions are padded; the longest has 28."""
VARIANTS = 32
"""Captions of each combination that training draws from."""
OTHER_CAPTIONS = 20_000


def seeds(*parts: int | str) -> int:
    """A number that only these parts give."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def step_rngs(seed: int, phase: str, step: int) -> np.random.Generator:
    """The randomness of one step: NumPy's, and PyTorch's own on every device."""
    torch.manual_seed(seeds(seed, phase, step, "torch"))
    return np.random.default_rng(seeds(seed, phase, step, "numpy"))


def number(combination: Combination | None) -> int:
    """Where a combination lies among those that are trained on."""
    return OTHER if combination is None else split()[0].index(combination)


def choose(count: int, other_share: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers of combinations, each as likely, and OTHER."""
    chosen = rng.integers(0, len(split()[0]), count)
    return np.where(rng.random(count) < other_share, OTHER, chosen)


def training_scenes(numbers: np.ndarray, rng: np.random.Generator) -> Scenes:
    """Scenes of numbers of combinations; of OTHER, empty ones."""
    trained = split()[0]
    return sample_scenes([None if index == OTHER else trained[index] for index in numbers], rng)


def recoloured(scenes: Scenes, share: float, rng: np.random.Generator) -> Scenes:
    """A share of them in any two colours, so that a VAE learns more than the captions' few."""
    chosen = (rng.random(len(scenes.radius)) < share)[:, None]
    colour, ground = rng.random((2, len(chosen), 3), np.float32)
    return scenes._replace(
        colour=np.where(chosen, colour, scenes.colour),
        top=np.where(chosen, ground, scenes.top),
        bottom=np.where(chosen, ground, scenes.bottom),
    )


def to_device(scenes: Scenes, device: torch.device) -> Scenes:
    """The same, as tensors."""
    return scenes.map(lambda array: torch.from_numpy(array).to(device))


def draw_clips(scenes: Scenes, bucket: Bucket) -> torch.Tensor:
    """Clips (B, 3, F, H, W) in [-1, 1], on the scenes' device."""
    clips: torch.Tensor = draw(scenes, bucket.frames, bucket.height, bucket.width, torch)
    return clips * 2 - 1


def token_ids(texts: Sequence[str], tokenizer: Tokenizer) -> torch.Tensor:
    """Texts → ids (B, MAX_TOKENS), padded; the end token is always there."""
    ids = torch.full((len(texts), MAX_TOKENS), PADDING, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        encoded = tokenizer.encode(text)
        kept = [*encoded[: MAX_TOKENS - 1], encoded[-1]] if len(encoded) > MAX_TOKENS else encoded
        row[: len(kept)] = torch.tensor(kept)
    return ids


class Captions:
    """Captions of every combination that is trained on, and of other things, as ids on the device.

    A step only gathers them: making captions anew would cost more than the step itself.
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
        """A caption of each number (B,), at random → ids (B, MAX_TOKENS); some are empty."""
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
    """The bundled one: a SentencePiece vocabulary of 280 pieces, which training does not change."""
    return Path(__file__).parents[1] / "tokenizer" / "spiece.model"
