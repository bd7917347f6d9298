"""`ltx doctor`: what is wrong, and what mends it."""

from __future__ import annotations

import dataclasses

import click
from rich.console import Console
from rich.markup import escape

from ltx_client.doctor import client_checks
from ltx_client.options import json_option
from ltx_client.output import print_json
from ltx_client.protocol.checks import Finding, Level, run_checks, worst
from ltx_client.protocol.settings import FarmSettings

__all__ = ["command"]

STYLE = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}
FAILED = 1


@click.command("doctor", epilog="Example: ltx doctor --json")
@json_option
def command(as_json: bool) -> None:
    """Looks at this machine, the broker, the storage and the workers, and says what is wrong and what mends it.

    Exit code 1 when something has failed; a warning is no failure. On a Mac that renders, ltx-worker doctor sees more.
    """
    findings = []
    console = Console(soft_wrap=True, highlight=False)
    for finding in run_checks(client_checks(FarmSettings())):
        findings.append(finding)
        if not as_json:
            console.print(_line(finding))
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    if worst(findings) is Level.FAILURE:
        click.get_current_context().exit(FAILED)


def _line(finding: Finding) -> str:
    mend = f"\n{'':24}[dim]mend: {escape(finding.mend)}[/]" if finding.mend else ""
    return f"[{STYLE[finding.level]}]{finding.level:<8}[/] {finding.about:<14} {escape(finding.text)}{mend}"
