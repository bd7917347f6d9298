"""How many held-out captions come out right: what the model card says, whoever rendered the clips."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx_models.families.variants import VARIANTS
from ltx_models.pocket.grammar import Combination, caption, split
from ltx_models.pocket.judge import judge_combination

__all__ = [
    "ASPECTS",
    "MODELS",
    "SIZES",
    "Score",
    "Setting",
    "held_out_captions",
    "read_scores",
    "score",
    "setting_of",
    "write_scores",
]

ASPECTS = ("colour", "shape", "size", "motion", "right")
MODELS = ("pocket", "pocket-distilled")
SIZES: dict[str, dict[str, Any]] = {
    "default": {},
    "small": {"width": 64, "height": 64},
    "wide": {"width": 160, "height": 96},
    "tall": {"width": 96, "height": 160, "frames": 33},
    "long": {"frames": 49, "frame_rate": 24.0},
    "medium": {"width": 192, "height": 192},
    "large": {"width": 256, "height": 256, "frames": 49},
}
"""What is scored: of a Setting, what is not its default."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to render: a model (pocket or pocket-distilled), by "MLX" or "diffusers"."""

    model: str
    by: str
    width: int = 128
    height: int = 128
    frames: int = 25
    frame_rate: float = 12.0
    steps: int = 8
    guidance: float = 3.0

    def __str__(self) -> str:
        size = f"{self.width}x{self.height}, {self.frames} frames at {self.frame_rate:g} fps"
        return f"{self.model} by {self.by}, {self.steps} steps, guidance {self.guidance:g}, {size}"


def setting_of(model: str, by: str, size: str = "default") -> Setting:
    """A model's own steps and guidance, at one of SIZES."""
    variant = VARIANTS[model]
    assert isinstance(variant.guidance_scale, float)
    return Setting(model=model, by=by, steps=variant.num_steps, guidance=variant.guidance_scale, **SIZES[size])


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of so many clips, the part that is right in each aspect, and in all. wrong: the captions that are not."""

    setting: Setting
    clips: int
    colour: float
    shape: float
    size: float
    motion: float
    right: float
    wrong: tuple[str, ...] = ()


Render = Callable[[Setting, Sequence[str]], Iterable[np.ndarray]]
"""Renders captions: uint8 frames (F, H, W, 3) of each, in order."""


def held_out_captions(count: int) -> list[tuple[Combination, str]]:
    """The first so many held-out combinations, with a caption each; always the same."""
    held_out = split()[1][:count]
    return [(what, caption(what, random.Random(index))) for index, what in enumerate(held_out)]  # noqa: S311


def score(setting: Setting, render: Render, count: int, each: Callable[[], None] = lambda: None) -> Score:
    """Render held-out captions and judge them. each: called after every clip."""
    wanted = held_out_captions(count)
    verdicts, wrong = [], []
    clips = render(setting, [text for _, text in wanted])
    for (combination, text), frames in zip(wanted, clips, strict=True):
        verdict = judge_combination(frames, combination)
        verdicts.append([getattr(verdict, aspect) for aspect in ASPECTS])
        if not verdict.right:
            wrong.append(f"{text} ({', '.join(_not_right(verdicts[-1]))})")
        each()
    parts = np.mean(verdicts, axis=0)
    values = {aspect: float(part) for aspect, part in zip(ASPECTS, parts, strict=True)}
    return Score(setting=setting, clips=len(wanted), wrong=tuple(wrong), **values)


def _not_right(verdict: Sequence[bool]) -> Iterator[str]:
    return (aspect for aspect, is_right in zip(ASPECTS[:-1], verdict, strict=False) if not is_right)


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Adds to a JSON file; a score takes the place of an earlier one of its setting."""
    kept = {entry.setting: entry for entry in read_scores(path)} | {entry.setting: entry for entry in scores}
    text = json.dumps([dataclasses.asdict(entry) for entry in kept.values()], indent=1)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_scores(path: Path) -> list[Score]:
    """The scores of a file; none where there is no file."""
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Score(**row | {"setting": Setting(**row["setting"]), "wrong": tuple(row["wrong"])}) for row in rows]
