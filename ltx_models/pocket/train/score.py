"""Render held-out captions with this project's own pipeline, and with diffusers' models, and judge them.

    python -m ltx_models.pocket.train.score --weights DIR --captions 128

DIR is what training exported, or `ltx_models/pocket`. The scores are written to DIR/scores.json, clips of the first
captions to DIR/sheet.jpg; `ltx_models.pocket.model_card` reads both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.pocket.scores import (
    ASPECTS,
    MODELS,
    SIZES,
    Render,
    Score,
    Setting,
    held_out_captions,
    score,
    setting_of,
    write_scores,
)
from ltx_models.request import GenerationRequest
from ltx_models.sampling.latents import INITIAL_NOISE, draw_noise

__all__ = ["contact_sheet", "render_in_mlx"]

HERE = Path(__file__).parents[1]
SHEET_CAPTIONS, SHEET_FRAMES, SHEET_SIDE = 16, 6, 96


@click.command(epilog="Example: python -m ltx_models.pocket.train.score --weights run/export --captions 128")
@click.option("--weights", type=click.Path(path_type=Path, exists=True, file_okay=False), default=HERE)
@click.option("--captions", type=click.IntRange(1, 256), default=128, show_default=True, help="Held-out captions.")
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="[default: those in the folder]")
@click.option("--by", multiple=True, type=click.Choice(["MLX", "diffusers"]), default=["MLX"], show_default=True)
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES)), default=["default"], show_default=True)
@click.option("--sheet/--no-sheet", "with_sheet", default=True, help="Draw the contact sheet.")
def main(
    weights: Path, captions: int, models: tuple[str, ...], by: tuple[str, ...], sizes: tuple[str, ...], with_sheet: bool
) -> None:
    """Score the models on captions of combinations that training never saw, and draw a contact sheet."""
    there = [name for name in models or MODELS if models or (weights / f"{name}.safetensors").is_file()]
    settings = [setting_of(name, renderer, size) for name in there for renderer in by for size in sizes]
    scores = []
    with Progress(console=Console(stderr=True)) as progress:
        for setting in settings:
            bar = progress.add_task(str(setting), total=captions)
            render = render_in_mlx(weights) if setting.by == "MLX" else _render_in_diffusers(weights)
            scores.append(score(setting, render, captions, lambda bar=bar: progress.advance(bar)))  # type: ignore[misc]
    write_scores(weights / "scores.json", scores)
    Console(width=120).print(table(scores))
    if with_sheet and "pocket" in there:
        sheet = contact_sheet(render_in_mlx(weights), setting_of("pocket", "MLX"))
        sheet.save(weights / "sheet.jpg", quality=90, subsampling=0)


def table(scores: Iterable[Score]) -> Table:
    """Return a table of scores for people."""
    shown = Table("model", "by", "size", "steps", "guidance", "clips", *ASPECTS)
    for entry in scores:
        setting = entry.setting
        size = f"{setting.width}x{setting.height}x{setting.frames}"
        parts = [f"{getattr(entry, aspect):.1%}" for aspect in ASPECTS]
        steps = (str(setting.steps), f"{setting.guidance:g}", str(entry.clips))
        shown.add_row(setting.model, setting.by, size, *steps, *parts)
    return shown


def render_in_mlx(weights: Path) -> Render:
    """Return a renderer of this project's pipeline; the noise of the n-th caption is that of seed n."""

    def render(setting: Setting, captions: Sequence[str]) -> Iterator[np.ndarray]:
        pipeline = LTXPipeline.from_files(
            checkpoint=weights / f"{setting.model}.safetensors",
            text_encoder=weights / "text_encoder",
            tokenizer=weights / "tokenizer" / "spiece.model",
        )
        template = GenerationRequest(
            prompt="-",
            negative_prompt="",
            width=setting.width,
            height=setting.height,
            num_frames=setting.frames,
            frame_rate=setting.frame_rate,
            num_steps=setting.steps,
            guidance_scale=setting.guidance,
        )
        for seed, caption in enumerate(captions):
            for event in pipeline.stream(dataclasses.replace(template, prompt=caption, seed=seed)):
                last = event
            yield last.result.frames  # type: ignore[union-attr]

    return render


def _render_in_diffusers(weights: Path) -> Render:
    """Return a renderer of diffusers' models, with the same files and the same noise."""
    from ltx_models.pocket.train import evaluate, export
    from ltx_models.pocket.train.optimization.recipe import POCKET

    def render(setting: Setting, captions: Sequence[str]) -> Iterator[np.ndarray]:
        vae, denoiser = export.load(weights, POCKET.sizes, f"{setting.model}.safetensors")
        return evaluate.render(
            vae, denoiser, setting, captions, lambda seed, shape: draw_noise(seed, INITIAL_NOISE, shape)
        )

    return render


def contact_sheet(render: Render, setting: Setting) -> Image.Image:
    """Draw a row for each of 16 held-out captions: six frames of it from the first to the last."""
    captions = [text for _, text in held_out_captions(SHEET_CAPTIONS)]
    rows = []
    for frames in render(setting, captions):
        chosen = np.linspace(0, len(frames) - 1, SHEET_FRAMES).round().astype(int)
        small = [Image.fromarray(frames[index]).resize((SHEET_SIDE, SHEET_SIDE)) for index in chosen]
        rows.append(np.concatenate([np.asarray(picture) for picture in small], axis=1))
    half = len(rows) // 2
    columns = [np.concatenate(part) for part in (rows[:half], rows[half:])]
    gap = np.full((len(columns[0]), SHEET_SIDE // 6, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([columns[0], gap, columns[1]], axis=1))


if __name__ == "__main__":
    main()
