"""Render a clip of the bundled model, from its prompt through an MP4 and back to frames."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltx_models.media.clips import read_clip
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.pocket.judge import judge
from ltx_models.video import write_mp4

__all__ = ["Clip", "render_clip"]

PROMPT = "a red ball rolls to the right on a navy background"
LEAST_PSNR = 25.0
"""The least PSNR in decibels between rendered frames and those that are read back."""


@dataclass(frozen=True)
class Clip:
    """The result of the clip; `problem` says in a sentence what is wrong with it, "" for nothing."""

    problem: str
    seconds: float
    psnr: float
    bytes: int


def render_clip() -> Clip:
    """Render a clip, write it, read it back and judge it."""
    started = time.perf_counter()
    frames = LTXPipeline("pocket").generate_video(PROMPT, seed=0).frames
    with tempfile.TemporaryDirectory(prefix="ltx-self-test-") as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(frames, path, 24)
        again = np.stack(list(read_clip(path, len(frames))))
        size = path.stat().st_size
    seconds = time.perf_counter() - started
    if again.shape != frames.shape:
        return Clip(f"of {len(frames)} frames written to an MP4, {len(again)} were read back", seconds, 0.0, size)
    error = np.mean((frames.astype(np.float64) - again) ** 2) / 255**2
    psnr = float(-10 * np.log10(max(error, 1e-12)))
    if psnr < LEAST_PSNR:
        return Clip(f"frames read back from an MP4 differ ({psnr:.1f} dB)", seconds, psnr, size)
    verdict = judge(again, PROMPT)
    off = ", ".join(name for name, right in dataclasses.asdict(verdict).items() if not right)
    problem = "" if verdict.right else f"the clip does not show what its prompt says: {off}"
    return Clip(problem, seconds, psnr, size)
