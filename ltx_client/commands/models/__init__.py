"""Run `ltx models`: list the variants, and manage their files on this machine."""

from __future__ import annotations

import click

from ltx_client.shared.console.lazy_group import LazyCommand, LazySubgroup

__all__ = ["command"]

_HERE = "ltx_client.commands.models"
_TABLE = {
    "convert": LazyCommand(
        f"{_HERE}.convert:command",
        "Write SRC, a checkpoint of any layout or a downloaded variant, as the folder DST.",
    ),
    "download": LazyCommand(
        f"{_HERE}.download:command", "Download the files of VARIANT that are missing, and print where they are."
    ),
    "list": LazyCommand(
        f"{_HERE}.listing:command",
        "List the variants: what they need, whether they fit this machine, and whether their files are here.",
    ),
    "verify": LazyCommand(
        f"{_HERE}.verify:command",
        "Read the downloaded files of VARIANT, or of all variants, and compare their checksums with the hub's.",
    ),
}


@click.group("models", cls=LazySubgroup, table=_TABLE, epilog="Example: ltx models list")
def command() -> None:
    """List the model variants, and download, check and convert their files.

    Files are stored in the cache of the Hugging Face hub (HF_HOME), or, if it is set, in LTX_MODELS_DIR: a folder,
    which may be a share that serves every machine of a farm.
    """
