"""Run `ltx doctor`: find out what is wrong, and how to fix it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from ltx_client.errors import UsageError
from ltx_client.terminal.arguments.options import json_option
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant

__all__ = ["command"]


@click.command("doctor", epilog="Example: ltx doctor --json")
@click.option(
    "--deep", is_flag=True, help="Compute for some minutes, and write a report on whether it is right, and how fast."
)
@click.option("-v", "--variant", help=f"With --deep: the variant whose sizes are used.  [default: {DEFAULT_VARIANT}]")
@click.option(
    "--report", type=click.Path(path_type=Path), help="With --deep: the report's file.  [default: in LTX_HOME]"
)
@json_option
def command(deep: bool, variant: str | None, report: Path | None, as_json: bool) -> None:
    """Check this machine, the broker, the storage and the workers, and say how to fix what is wrong.

    The exit code is 1 if a check has failed; a warning is not a failure. On a Mac that renders, ltx-worker doctor
    checks more.
    """
    from ltx_client.shared.doctor.deep_checks import DEEP_REPORT, DeepChecks
    from ltx_client.shared.doctor.report import report as print_report
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.terminal.client_checks import client_checks

    if not deep and (variant or report):
        raise UsageError(f"{'--variant' if variant else '--report'} is for --deep, which was not given")
    settings = FarmSettings()
    checks = client_checks(settings)
    if deep:
        if importlib.util.find_spec("mlx") is None:
            raise UsageError("--deep is for a machine that renders: pip install 'ltx-farm[worker]'")
        row = find_variant(variant or DEFAULT_VARIANT)
        checks += DeepChecks(row.name, report or settings.home / DEEP_REPORT).checks()
    click.get_current_context().exit(print_report(checks, as_json=as_json))
