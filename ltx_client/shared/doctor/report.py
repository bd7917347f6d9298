"""Print a doctor's report, for clients and workers alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from rich.text import Text

from ltx_client.shared.console.rich_console import Console
from ltx_client.shared.console.stdio import print_json
from ltx_client.shared.doctor.checks import Check, Finding, Level, run_checks, worst

__all__ = ["FAILED", "report"]

STYLE = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}
FAILED = 1
INDENT = 24


def report(checks: Iterable[Check], *, as_json: bool) -> int:
    """Run the checks and print their findings: each as soon as it is found, or as JSON when all have run.

    Returns:
        The exit code: FAILED if a check has failed; a warning is not a failure.
    """
    findings = []
    console = Console(soft_wrap=True)
    for finding in run_checks(checks):
        findings.append(finding)
        if not as_json:
            for line in _lines(finding):
                console.print(line)
    if as_json:
        print_json([_for_programs(finding) for finding in findings])
    return FAILED if worst(findings) is Level.FAILURE else 0


def _for_programs(finding: Finding) -> dict[str, Any]:
    """Return a finding with the keys that programs know: the fix is under "mend"."""
    return {"mend" if name == "fix" else name: value for name, value in dataclasses.asdict(finding).items()}


def _lines(finding: Finding) -> Iterable[Text]:
    yield Text.assemble((f"{finding.level:<8}", STYLE[finding.level]), f" {finding.about:<14} {finding.text}")
    if finding.fix:
        yield Text.assemble(" " * INDENT, (f"fix: {finding.fix}", "dim"))
