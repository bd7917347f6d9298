"""`ltx models`: the variants, and their files on this machine."""

from __future__ import annotations

import click

from ltx_client.commands.models import convert, download, listing, verify

__all__ = ["command"]


@click.group("models", epilog="Example: ltx models list")
def command() -> None:
    """Lists the model variants, and fetches, checks and converts their files.

    \b
    Files are kept in the cache of the Hugging Face hub (HF_HOME), or, if it is set, in
      LTX_MODELS_DIR    a folder, which may be a share that serves every machine of a farm
    """


for _module in (listing, download, verify, convert):
    command.add_command(_module.command)
