"""`ltx models`: the variants, and their files on this machine."""

from __future__ import annotations

import click

from ltx_client.shared.console.lazy_group import LazyCommand, LazySubgroup

__all__ = ["command"]

_HERE = "ltx_client.commands.models"
_TABLE = {
    "convert": LazyCommand(
        f"{_HERE}.convert:command",
        "Writes SRC, a checkpoint of any layout or a variant that is here, as the folder DST.",
    ),
    "download": LazyCommand(
        f"{_HERE}.download:command", "Fetches the files of VARIANT that are not here, and prints where they lie."
    ),
    "list": LazyCommand(
        f"{_HERE}.listing:command",
        "Lists the variants: what they need, whether they fit this machine, and whether their files are here.",
    ),
    "verify": LazyCommand(
        f"{_HERE}.verify:command",
        "Reads the downloaded files of VARIANT, or of all variants, and compares their checksums with the hub's.",
    ),
}


@click.group("models", cls=LazySubgroup, table=_TABLE, epilog="Example: ltx models list")
def command() -> None:
    """Lists the model variants, and fetches, checks and converts their files.

    \b
    Files are kept in the cache of the Hugging Face hub (HF_HOME), or, if it is set, in
      LTX_MODELS_DIR    a folder, which may be a share that serves every machine of a farm
    """
