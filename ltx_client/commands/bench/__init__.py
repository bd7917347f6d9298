"""Run `ltx bench`: measure how fast this machine is."""

from __future__ import annotations

import click

from ltx_client.shared.console.lazy_group import LazyCommand, LazySubgroup

__all__ = ["command"]

_HERE = "ltx_client.commands.bench"
_TABLE = {
    "farm": LazyCommand(
        f"{_HERE}.farm:command",
        "Measure the farm's own overhead on this machine, with an engine that renders nothing.",
    ),
    "model": LazyCommand(
        f"{_HERE}.model:command",
        "Measure the DiT step, the decode, text encoding and whole renders: by phase, with previews, and clip after"
        " clip.",
    ),
}


@click.group("bench", cls=LazySubgroup, table=_TABLE, epilog="Example: ltx bench model -v distilled --json")
def command() -> None:
    """Measure this machine. Nothing is downloaded, and no farm is used."""
