"""Write MODEL_CARD.md from measurements: no number in it is typed by hand.

    python -m ltx_models.pocket.model_card --weights ltx_models/pocket --run run

It reads the files of the folder of weights, its scores.json and sheet.jpg; and from the training's folder
reconstruction.json and the losses, whose plot it copies to the card's folder.
"""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Iterable
from pathlib import Path

import click

from ltx_models.files.safetensors_header import read_header
from ltx_models.pocket.grammar import BACKGROUNDS, COLOURS, HELD_OUT, MOTIONS, SHAPES, SIZES, combinations
from ltx_models.pocket.scores import ASPECTS, held_out_captions, read_scores

__all__ = ["model_card"]

HERE = Path(__file__).parent
PHASES = {"vae": "VAE", "dit": "transformer and text encoder", "student": "distillation"}
SHEET_CAPTIONS = 16


@click.command(epilog="Example: python -m ltx_models.pocket.model_card --run run")
@click.option("--weights", type=click.Path(path_type=Path, exists=True, file_okay=False), default=HERE)
@click.option("--run", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--device", "trained_on", default="one NVIDIA H100", show_default=True, help="What it was trained on.")
@click.option("--remark", default="", help="A remark on the training.")
def main(weights: Path, run: Path, trained_on: str, remark: str) -> None:
    """Write WEIGHTS/MODEL_CARD.md."""
    if (run / "losses.png").is_file():
        shutil.copyfile(run / "losses.png", weights / "losses.png")
    (weights / "MODEL_CARD.md").write_text(model_card(weights, run, trained_on, remark), encoding="utf-8")
    click.echo(weights / "MODEL_CARD.md")


def model_card(weights: Path, run: Path, trained_on: str, remark: str = "") -> str:
    """Return the card's text."""
    template = string.Template((HERE / "MODEL_CARD.template.md").read_text(encoding="utf-8"))
    drawn = json.loads((run / "reconstruction.json").read_text(encoding="utf-8"))
    return template.substitute(
        files=_files(weights),
        colours=", ".join(COLOURS),
        shapes=_synonyms(SHAPES),
        sizes=_synonyms({name: words for name, words in SIZES.items() if name}),
        motions=_synonyms(MOTIONS),
        backgrounds=", ".join(BACKGROUNDS),
        combinations=f"{len(combinations()):,}",
        held_out=HELD_OUT,
        scores=_scores(weights, run),
        reconstruction=f"{drawn['decibels']:.1f} dB on {drawn['clips']} held-out clips of {drawn['size']}; the judge "
        f"takes {drawn['right']:.1%} of them for what they were",
        training=_training(run),
        remark=f"{remark}\n\n" if remark else "",
        device=trained_on,
        captions="\n".join(f"{row}. {text}" for row, (_, text) in enumerate(held_out_captions(SHEET_CAPTIONS), 1)),
    )


def _files(weights: Path) -> str:
    paths = sorted(path for path in weights.rglob("*") if path.suffix in (".safetensors", ".model"))
    rows = []
    for path in paths:
        tensors = read_header(path).tensors if path.suffix == ".safetensors" else {}
        parameters = sum(_product(shape) for _, shape in tensors.values()) / 1e6
        count = f"{parameters:.2f} M" if tensors else ""
        rows.append(f"| `{path.relative_to(weights).as_posix()}` | {path.stat().st_size / 1e6:.2f} MB | {count} |")
    total = sum(path.stat().st_size for path in paths) / 1e6
    return "\n".join(["| file | size | parameters |", "| --- | --- | --- |", *rows, f"| all | {total:.2f} MB | |"])


def _product(shape: Iterable[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _synonyms(table: dict[str, tuple[str, ...]]) -> str:
    shown = []
    for first, *others in table.values():
        shown.append(f"{first} ({', '.join(others)})" if others else first)
    return ", ".join(shown)


def _scores(weights: Path, run: Path) -> str:
    """Return the scores in the folder of weights, and those of the training itself."""
    rows = [f"| model | rendered by | size | steps | guidance | clips | {' | '.join(ASPECTS)} |"]
    rows.append("| --- " * (6 + len(ASPECTS)) + "|")
    scores = [*read_scores(weights / "scores.json"), *read_scores(run / "scores.json")]
    for entry in sorted(scores, key=lambda entry: (entry.setting.model, -entry.clips)):
        setting = entry.setting
        size = f"{setting.width}x{setting.height}, {setting.frames} frames, {setting.frame_rate:g} fps"
        parts = " | ".join(f"{getattr(entry, aspect):.1%}" for aspect in ASPECTS)
        rows.append(
            f"| `{setting.model}` | {setting.by} | {size} | {setting.steps} | {setting.guidance:g} | {entry.clips}"
            f" | {parts} |"
        )
    return "\n".join(rows)


def _training(run: Path) -> str:
    rows = ["| phase | steps | minutes | last loss |", "| --- | --- | --- | --- |"]
    for name, title in PHASES.items():
        step, seconds, loss = json.loads((run / f"{name}.losses.json").read_text(encoding="utf-8"))[-1]
        rows.append(f"| {title} | {step:,} | {seconds / 60:.1f} | {loss:.4f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
