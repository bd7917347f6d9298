"""`ltx doctor`: what is wrong, and what mends it."""

from __future__ import annotations

import click

from ltx_client.doctor import client_checks
from ltx_client.options import json_option
from ltx_client.protocol.report import report
from ltx_client.protocol.settings import FarmSettings

__all__ = ["command"]


@click.command("doctor", epilog="Example: ltx doctor --json")
@json_option
def command(as_json: bool) -> None:
    """Looks at this machine, the broker, the storage and the workers, and says what is wrong and what mends it.

    Exit code 1 when something has failed; a warning is no failure. On a Mac that renders, ltx-worker doctor sees more.
    """
    click.get_current_context().exit(report(client_checks(FarmSettings()), as_json=as_json))
