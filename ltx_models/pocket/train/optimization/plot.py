"""Plot the losses of all phases."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["plot_losses"]

PHASES = {"vae": "VAE", "dit": "transformer and text encoder", "student": "distillation"}
SMOOTHED = 0.9
FEW = 20
"""The number of losses up to which they are drawn without smoothing."""


def plot_losses(folder: Path) -> Path | None:
    """Draw losses.png from the phases' losses, as far as there are any; return None without matplotlib or losses."""
    paths = {title: folder / f"{name}.losses.json" for name, title in PHASES.items()}
    recorded = {title: json.loads(path.read_text()) for title, path in paths.items() if path.is_file()}
    recorded = {title: rows for title, rows in recorded.items() if rows}
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    if not recorded:
        return None
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(recorded), figsize=(5 * len(recorded), 3.5), squeeze=False)
    for axis, (title, rows) in zip(axes[0], recorded.items(), strict=True):
        steps, losses = [row[0] for row in rows], [row[2] for row in rows]
        axis.plot(steps, losses, color="0.8", linewidth=0.8)
        axis.plot(steps, _smooth(losses) if len(losses) > FEW else losses, color="C0")
        axis.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    path = folder / "losses.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _smooth(values: list[float]) -> list[float]:
    """Return an exponential moving average that is not biased at its beginning."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = SMOOTHED * total + value, SMOOTHED * weight + 1
        smoothed.append(total / weight)
    return smoothed
