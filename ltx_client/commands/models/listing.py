"""Run `ltx models list`: list the variants, what fits this machine, and which files are here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ltx_client.shared.console.stdio import print_json
from ltx_client.terminal.arguments.options import json_option
from ltx_models.families.variants import VARIANTS, Variant
from ltx_models.files.model_files import missing_parts
from ltx_models.memory import GB, USABLE_PART, machine_memory

if TYPE_CHECKING:
    from ltx_client.terminal.listing import Listing

__all__ = ["command"]


@dataclass(frozen=True)
class Listed:
    """A variant as seen from this machine.

    Attributes:
        reason: Why it does not fit; empty if it fits.
        missing: What has to be downloaded.
    """

    name: str
    aliases: tuple[str, ...]
    description: str
    ram_gb: int
    fits: bool
    reason: str
    missing: list[str]


def listed(variant: Variant, memory: int) -> Listed:
    """Return a variant as seen from a machine with so many bytes of memory."""
    usable = memory * USABLE_PART
    fits = variant.ram_gb * GB <= usable
    reason = f"a render may use {usable / GB:.0f} GB of this machine's {memory / GB:.0f} GB"
    return Listed(
        name=variant.name,
        aliases=variant.aliases,
        description=variant.description,
        ram_gb=variant.ram_gb,
        fits=fits,
        reason="" if fits else reason,
        missing=missing_parts(variant),
    )


def table(rows: list[Listed]) -> Listing:
    """Return the variants as a table for people."""
    from rich.text import Text

    from ltx_client.shared.console.rich_console import styled
    from ltx_client.terminal.listing import Column, Listing

    result = Listing(
        Column("VARIANT"),
        Column("RAM"),
        Column("FITS"),
        Column("FILES", leave_out=1),
        Column("DESCRIPTION", leave_out=2, wraps=True),
    )
    for row in rows:
        missing = f"not here: {', '.join(row.missing)}" if row.missing else "here"
        result.add_row(
            row.name,
            f"{row.ram_gb} GB",
            styled("yes", "green") if row.fits else styled("no", "red"),
            missing if len(row.missing) < 3 else "not here",
            Text.assemble(row.description, "" if row.fits else (f" (does not fit: {row.reason})", "red")),
        )
    return result


@click.command("list", epilog="Example: ltx models list --json")
@json_option
def command(as_json: bool) -> None:
    """List the variants: what they need, whether they fit this machine, and whether their files are here."""
    from ltx_client.terminal.output import print_table

    rows = [listed(variant, machine_memory()) for variant in VARIANTS.values()]
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
    else:
        print_table(table(rows))
