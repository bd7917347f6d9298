"""`ltx bench`: how fast this machine is."""

from __future__ import annotations

import click

from ltx_client.commands.bench import farm, model

__all__ = ["command"]


@click.group("bench", epilog="Example: ltx bench model -v distilled --json")
def command() -> None:
    """Measures this machine. Nothing is downloaded, and no farm is touched."""


for _module in (farm, model):
    command.add_command(_module.command)
