"""Run `ltx models convert`: convert a checkpoint to a folder of MLX files."""

from __future__ import annotations

import importlib.util
import sys

import click

from ltx_client.errors import UsageError
from ltx_client.shared.console.stdio import print_line

__all__ = ["command"]


@click.command("convert", epilog="Example: ltx models convert distilled ~/models/distilled --quantize 4")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--quantize", type=click.Choice(["8", "4"]), help="Bits of the matrices of the blocks.")
@click.option("--text-encoder", metavar="DIR", help="A T5 folder to convert too.  [default: the variant's]")
@click.option("--tokenizer", metavar="FILE", help="A spiece.model to copy.  [default: the variant's]")
def command(
    source: str, destination: str, quantize: str | None, text_encoder: str | None, tokenizer: str | None
) -> None:
    """Write SRC, a checkpoint of any layout or a downloaded variant, as the folder DST.

    SRC is an official single file, the folder of one in parts, or a diffusers folder; its weights may be in fp8, with
    or without scales. Everything is checked first: a checkpoint that is not complete, or not of LTX-Video, is refused,
    and nothing is written.

    Under the name of its variant in LTX_MODELS_DIR, the folder replaces the variant's own files.
    """
    from ltx_client.shared.console.child_output import run_shown
    from ltx_models.blas import blas_environment

    if importlib.util.find_spec("mlx") is None:
        raise UsageError("converting needs MLX, which the base install leaves out: pip install 'ltx-farm[worker]'")
    options = {"--quantize": quantize, "--text-encoder": text_encoder, "--tokenizer": tokenizer}
    given = [text for name, value in options.items() if value for text in (name, value)]
    # A process of its own: the client itself never loads MLX.
    program = [sys.executable, "-m", "ltx_models.convert", source, destination, *given]
    code = run_shown(program, variables=blas_environment())
    if code:
        click.get_current_context().exit(code)
    print_line(destination, done=f"the model is in {destination}")
