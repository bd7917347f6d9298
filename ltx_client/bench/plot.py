"""Plot measurements as PNG. Needs matplotlib, which the extra `plot` installs."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

from ltx_client.errors import UsageError
from ltx_client.farm.outputs.paths import PLOT, is_stdout, output_path, write_output

__all__ = ["new_figure", "plot_latencies", "plot_path", "plot_times", "save"]

DPI = 110


def plot_path(given: str, as_json: bool = False) -> Path:
    """Return the path of a plot.

    Raises:
        UsageError: No plot can be drawn there; raised before anything is measured.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib; run pip install 'ltx-farm[plot]'")
    path = output_path(given, PLOT)
    if as_json and is_stdout(path):
        raise UsageError(f"--json and --plot {given} are both written to standard output; leave out one of them")
    return path


def plot_latencies(milliseconds: list[float], path: Path) -> None:
    """Draw the share of submits that had their first event within a time."""
    figure, axes = new_figure(7, 3.5)
    ordered = sorted(milliseconds)
    axes.plot(ordered, [100 * (index + 1) / len(ordered) for index in range(len(ordered))])
    axes.set(xlabel="submit to first event, ms", ylabel="% of jobs", xlim=(0, None), ylim=(0, 101))
    axes.grid(alpha=0.3)
    save(figure, path)


def plot_times(path: Path, title: str, measured: list[dict[str, Any]]) -> None:
    """Draw a bar for each measurement, in milliseconds on a logarithmic axis."""
    labels = [": ".join(filter(None, (row["part"], row["phase"]))) for row in measured]
    labels = [f"{label} ({row['engine']})" for label, row in zip(labels, measured, strict=True)]
    figure, axes = new_figure(9, 1 + 0.35 * len(measured))
    bars = axes.barh(labels, [row["milliseconds"] for row in measured])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="milliseconds", title=title)
    axes.margins(x=0.15)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a plot.

    Raises:
        UsageError: It cannot be written.
    """
    png = io.BytesIO()
    figure.savefig(png, dpi=DPI, format="png")
    write_output(path, png.getvalue())


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure that is drawn into memory, with a size in inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, FigureCanvasAgg(figure).figure.subplots()
