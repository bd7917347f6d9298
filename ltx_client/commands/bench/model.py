"""Run `ltx bench model`: measure the parts of a render with random weights."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from ltx_client.bench.plot import plot_path, plot_times
from ltx_client.errors import UsageError
from ltx_client.farm.outputs.paths import is_stdout
from ltx_client.shared.console.stdio import print_json, print_line
from ltx_client.terminal.arguments.options import OutputPath, json_option
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant
from ltx_models.memory import GB, machine_memory

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["command"]


@click.command("model", epilog="Example: ltx bench model -v distilled --frames 97 --plot bars.png")
@click.option(
    "-v", "--variant", default=DEFAULT_VARIANT, show_default=True, help="The variant whose sizes are measured."
)
@click.option("--width", type=int, help="Pixels.  [default: the variant's]")
@click.option("--height", type=int, help="Pixels.  [default: the variant's]")
@click.option("--frames", type=int, help="Frames.  [default: the variant's]")
@click.option("--steps", type=int, help="Steps of a whole render.  [default: the variant's]")
@click.option(
    "--bits", type=click.Choice(["8", "4"]), help="Bits of the transformer's matrices.  [default: the variant's]"
)
@click.option(
    "--runs", type=click.IntRange(min=1), default=5, show_default=True, help="How often to measure; the median counts."
)
@click.option(
    "--memory",
    "memory_only",
    is_flag=True,
    help="Measure only peaks, and print them next to predictions, as text to send to us.",
)
@click.option("--compare", type=click.Choice(["diffusers"]), help="Measure this library too, if it is installed.")
@click.option("--plot", type=OutputPath(), help="Draw the times as a PNG.")
@json_option
def command(
    variant: str,
    width: int | None,
    height: int | None,
    frames: int | None,
    steps: int | None,
    bits: str | None,
    runs: int,
    memory_only: bool,
    compare: str | None,
    plot: str | None,
    as_json: bool,
) -> None:
    """Measure the DiT step, the decode, text encoding and whole renders: by phase, with previews, and clip after clip.

    The shapes are the variant's, the weights random: nothing is downloaded. Peaks are MLX's memory with all models
    resident, next to ltx-farm's predictions.
    """
    from ltx_client.shared.doctor.deep_checks import PEAK_STEPS
    from ltx_client.terminal.output import print_table

    if importlib.util.find_spec("mlx") is None:
        raise UsageError("measuring needs MLX, which the base install leaves out: pip install 'ltx-farm[worker]'")
    if compare and (importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None):
        raise UsageError("--compare diffusers needs torch and diffusers: pip install torch diffusers")
    path = None if plot is None else plot_path(plot, as_json)
    name = find_variant(variant).name
    options = {"--width": width, "--height": height, "--frames": frames, "--steps": steps, "--bits": bits}
    options["--compare"] = compare
    if memory_only:
        runs, options["--steps"] = 1, PEAK_STEPS if steps is None else steps  # a peak needs no median
    given = [str(text) for option, value in options.items() if value is not None for text in (option, value)]
    rows = _run([name, "--runs", str(runs), *given, *(["--memory"] if memory_only else [])])
    machine, measured = rows[0], rows[1:]
    if path is not None:
        plot_times(path, f"{name} on {machine['device']}", measured)
    if as_json:
        print_json({"variant": name, **machine, "measurements": measured})
    elif memory_only:
        for line in memory_report(name, machine, measured):
            print_line(line)
    else:
        print_table(table(measured), stderr=is_stdout(path))


def _run(arguments: list[str]) -> list[dict[str, Any]]:
    """Return the lines of JSON that a child process prints: the client itself never loads MLX."""
    from ltx_client.shared.console.child_output import run_shown
    from ltx_models.blas import blas_environment

    lines: list[str] = []
    code = run_shown([sys.executable, "-m", "ltx_models.benchmark", *arguments], lines.append, blas_environment())
    if code:
        click.get_current_context().exit(code)
    return [json.loads(line) for line in lines]


def memory_report(variant: str, machine: dict[str, Any], measured: list[dict[str, Any]]) -> list[str]:
    """Return the measured memory as lines of text, without the name of a person or a machine."""
    system = f"{platform.system()} {platform.mac_ver()[0] or platform.release()}"
    lines = [
        f"ltx-farm {version('ltx-farm')}, MLX {machine['mlx']}, {system}",
        f"{machine['device']}, {machine_memory() / GB:.1f} GB of memory, {machine['dtype']}",
        f"{variant}; peak / predicted in GB, {'over' if _over(measured) else 'none over'} its prediction:",
    ]
    for row in measured:
        if row["predicted_bytes"]:
            part = f"{row['part']}: {row['phase']}" if row["phase"] else row["part"]
            over = "  OVER" if row["peak_bytes"] > row["predicted_bytes"] else ""
            lines.append(f"  {part}: {row['peak_bytes'] / GB:.2f} / {row['predicted_bytes'] / GB:.2f}{over}")
    return lines


def _over(measured: list[dict[str, Any]]) -> bool:
    return any(row["peak_bytes"] > row["predicted_bytes"] > 0 for row in measured)


def table(measured: list[dict[str, Any]]) -> Table:
    """Return the measurements as a table for people."""
    from rich.table import Table

    result = Table(box=None, pad_edge=False)
    for heading in ("PART", "ENGINE"):
        result.add_column(heading, no_wrap=True)
    for heading in ("MEDIAN", "LEAST", "PEAK", "PREDICTED"):
        result.add_column(heading, justify="right", no_wrap=True)
    for row in measured:
        part = f"{row['part']}: {row['phase']}" if row["phase"] else row["part"]
        times = (f"{row[key]:,.1f} ms" for key in ("milliseconds", "least"))
        sizes = (f"{row[key] / GB:.2f} GB" if row[key] else "" for key in ("peak_bytes", "predicted_bytes"))
        result.add_row(part, row["engine"], *times, *sizes)
    return result
