"""Run `ltx models verify`: check the downloaded files."""

from __future__ import annotations

import click

from ltx_client.errors import FarmError
from ltx_client.shared.console.stdio import notice, print_line
from ltx_client.terminal.arguments.completion import complete_variants
from ltx_models.families.variants import VARIANTS, find_variant
from ltx_models.files.model_files import missing_parts

__all__ = ["command"]


@click.command("verify", epilog="Example: ltx models verify distilled-fp8")
@click.argument("variant", required=False, shell_complete=complete_variants)
def command(variant: str | None) -> None:
    """Read the downloaded files of VARIANT, or of all variants, and compare their checksums with the hub's.

    A file that was put into LTX_MODELS_DIR by hand has no checksum; it is checked for being complete.
    """
    from ltx_models.files.hub import verify

    rows = [find_variant(variant)] if variant else list(VARIANTS.values())
    bad = 0
    for row in rows:
        if missing := missing_parts(row):
            notice(f"{row.name}: not here: {', '.join(missing)}")
    for path, problem in {path: problem for row in rows for path, problem in verify(row)}.items():
        bad += bool(problem)
        print_line(f"{path}: {problem or 'good'}")
    if bad:
        raise FarmError(f"{bad} {'file is' if bad == 1 else 'files are'} damaged; delete and download again")
