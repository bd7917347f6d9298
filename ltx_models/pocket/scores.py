"""Score how many held-out captions are rendered right, for the model card, by whatever renders the clips."""

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
"""The sizes that are scored: the fields of a Setting that differ from its defaults."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way to render: a model (pocket or pocket-distilled), rendered by "MLX" or "diffusers"."""

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
    """Return the setting of a model's own steps and guidance, at one of SIZES."""
    variant = VARIANTS[model]
    assert isinstance(variant.guidance_scale, float)
    return Setting(model=model, by=by, steps=variant.num_steps, guidance=variant.guidance_scale, **SIZES[size])


@dataclass(frozen=True, kw_only=True)
class Score:
    """The fraction of clips that is right in each aspect, and in all; `wrong` are the captions of the others."""

    setting: Setting
    clips: int
    colour: float
    shape: float
    size: float
    motion: float
    right: float
    wrong: tuple[str, ...] = ()


Render = Callable[[Setting, Sequence[str]], Iterable[np.ndarray]]
"""A function that renders captions: it yields uint8 frames (F, H, W, 3) of each, in order."""


def held_out_captions(count: int) -> list[tuple[Combination, str]]:
    """Return the first `count` held-out combinations, with a caption each; always the same."""
    held_out = split()[1][:count]
    return [(what, caption(what, random.Random(index))) for index, what in enumerate(held_out)]  # noqa: S311


def score(setting: Setting, render: Render, count: int, each: Callable[[], None] = lambda: None) -> Score:
    """Render held-out captions and judge them; call `each` after every clip."""
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
    """Add scores to a JSON file; a score replaces an earlier one of its setting."""
    kept = {entry.setting: entry for entry in read_scores(path)} | {entry.setting: entry for entry in scores}
    text = json.dumps([dataclasses.asdict(entry) for entry in kept.values()], indent=1)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_scores(path: Path) -> list[Score]:
    """Return the scores of a file; none where it does not exist."""
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Score(**row | {"setting": Setting(**row["setting"]), "wrong": tuple(row["wrong"])}) for row in rows]
