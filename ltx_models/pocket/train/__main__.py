"""The command that trains pocket and pocket-distilled; see `ltx_models.pocket.train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import click
import torch

from ltx_models.pocket.train.data import Captions, tokenizer_file
from ltx_models.pocket.train.distil import distil
from ltx_models.pocket.train.dit import train_denoiser
from ltx_models.pocket.train.evaluate import evaluate, measure_vae
from ltx_models.pocket.train.export import export
from ltx_models.pocket.train.latents import normalize_by_data
from ltx_models.pocket.train.measure import measure
from ltx_models.pocket.train.optimization import recipe as recipes
from ltx_models.pocket.train.optimization.loop import Clock
from ltx_models.pocket.train.optimization.plot import plot_losses
from ltx_models.pocket.train.optimization.recipe import Recipe
from ltx_models.pocket.train.vae import train_vae
from ltx_models.text_encoders.tokenizer import Tokenizer

RECIPES = {"pocket": recipes.POCKET, "tiny": recipes.TINY}
TIME_IS_UP = 75
"""The exit code of a call whose time was up: the same command continues (EX_TEMPFAIL)."""


@click.command(epilog="Example: python -m ltx_models.pocket.train --out run --minutes 12.8")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where everything goes.")
@click.option("--recipe", "name", type=click.Choice(list(RECIPES)), default="pocket", show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Train for so long.  [default: the recipe's steps]"
)
@click.option(
    "--stop-after",
    type=click.FloatRange(min=0, min_open=True),
    help="Save and exit after so many minutes, with exit code 75; the same command continues.",
)
@click.option("--captions", default=64, show_default=True, help="Held-out captions to score in the end; 0 for none.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--measure", "only_measure", is_flag=True, help="Print what steps of every size take, and train nothing.")
def main(
    out: Path,
    name: str,
    minutes: float | None,
    stop_after: float | None,
    captions: int,
    seed: int,
    device: str,
    only_measure: bool,
) -> None:
    """Train the VAE, then transformer and text encoder, then the distilled transformer; score and export them.

    What exists already is not trained again: remove DIR/vae.safetensors, dit.safetensors or student.safetensors, and
    what comes after it, to train it anew.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    recipe = dataclasses.replace(RECIPES[name], seed=seed)
    if only_measure:
        measure(recipe, torch.device(device))
        return
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock(stop_after and stop_after * 60)
    done = _train(recipe, out, torch.device(device), minutes, captions, clock)
    plot_losses(out)
    if not done:
        click.echo("the time is up; the same command continues", err=True)
        raise click.exceptions.Exit(TIME_IS_UP)


def _train(recipe: Recipe, out: Path, device: torch.device, minutes: float | None, captions: int, clock: Clock) -> bool:
    """Train, and return whether all is done."""

    def seconds(phase: str) -> float | None:
        return minutes and minutes * 60 * recipe.phase(phase).share

    vae, done = train_vae(recipe, out, device, seconds("vae"), clock)
    if not done:
        return False
    normalize_by_data(vae, recipe, out, device)
    if captions:
        drawn = measure_vae(vae, out, captions)
        click.echo(
            f"the VAE draws held-out clips with a PSNR of {drawn.decibels:.1f} dB, {drawn.right:.1%} of them right"
        )
    texts = Captions(recipe, Tokenizer(tokenizer_file()), device)
    denoiser, done = train_denoiser(recipe, vae, texts, out, seconds("dit"), clock)
    if not done:
        return False
    student, done = distil(recipe, denoiser, texts, out, seconds("distil"), clock)
    if not done:
        return False
    _report(lambda: [str(path) for path in export(out / "export", vae, denoiser, student)])
    if clock.is_up:
        return False
    if captions:
        models = {"pocket": denoiser, "pocket-distilled": student}
        _report(lambda: [f"{entry.right:.1%}: {entry.setting}" for entry in evaluate(vae, models, out, captions)])
    return True


def _report(lines: Callable[[], list[str]]) -> None:
    for line in lines():
        click.echo(line)


if __name__ == "__main__":
    main()
