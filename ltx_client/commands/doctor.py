"""`ltx doctor`: what is wrong, and what mends it."""

from __future__ import annotations

import importlib.util

import click

from ltx_client.doctor import client_checks
from ltx_client.errors import UsageError
from ltx_client.options import json_option
from ltx_client.prepare import DEFAULT_VARIANT
from ltx_client.protocol.deep_checks import DEEP_REPORT, DeepChecks
from ltx_client.protocol.report import report
from ltx_client.protocol.settings import FarmSettings
from ltx_models.variants import find_variant

__all__ = ["command"]


@click.command("doctor", epilog="Example: ltx doctor --json")
@click.option("--deep", is_flag=True, help="Compute for some minutes, and write a report: is it right, and how fast?")
@click.option("-v", "--variant", default=DEFAULT_VARIANT, show_default=True, help="With --deep: whose sizes to take.")
@json_option
def command(deep: bool, variant: str, as_json: bool) -> None:
    """Looks at this machine, the broker, the storage and the workers, and says what is wrong and what mends it.

    Exit code 1 when something has failed; a warning is no failure. On a Mac that renders, ltx-worker doctor sees more.
    """
    settings = FarmSettings()
    checks = client_checks(settings)
    if deep:
        if importlib.util.find_spec("mlx") is None:
            raise UsageError("--deep is for a machine that renders: pip install 'ltx-farm[worker]'")
        checks += DeepChecks(find_variant(variant).name, settings.home / DEEP_REPORT).checks()
    click.get_current_context().exit(report(checks, as_json=as_json))
