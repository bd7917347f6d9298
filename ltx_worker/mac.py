"""What macOS says of its power and its display, as `pmset` prints it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ltx_client.protocol.checks import Finding, Level

__all__ = ["LOCAL_NETWORK_ERROR", "local_network", "power_findings"]

LOCAL_NETWORK_ERROR = 65
"""EHOSTUNREACH: what a program gets that macOS keeps from the local network, and also for a host that is off."""


def power_findings(settings: str, battery: str) -> Iterator[Finding]:
    """settings: of `pmset -g`.  battery: of `pmset -g batt`."""
    values = dict(re.findall(r"^\s*(\w+)\s+(\d+)", settings, re.MULTILINE))
    if values.get("displaysleep") == "0":
        text = "the display never sleeps: while it is on, macOS ends work that keeps the GPU for long"
        yield Finding("display", Level.WARNING, text, "sudo pmset -a displaysleep 10")
    elif "displaysleep" in values:
        yield Finding("display", Level.OK, f"it sleeps after {values['displaysleep']} min")
    if values.get("lowpowermode") == "1":
        yield Finding("power", Level.WARNING, "low power mode is on: renders are slow", "sudo pmset -a lowpowermode 0")
    if "Battery Power" in battery:
        mend = "plug it in, or set LTX_WORKER_ON_BATTERY=false, so that it takes no jobs then"
        yield Finding("power", Level.WARNING, "it is on battery", mend)
    elif "AC Power" in battery:
        yield Finding("power", Level.OK, "it is plugged in")
    if values.get("autorestart") == "0":
        mend = "sudo pmset -a autorestart 1"
        yield Finding("power", Level.WARNING, "it stays off after a power failure", mend)


def local_network(error_number: int | None) -> Iterator[Finding]:
    """error_number: of the failure to reach the broker, on macOS."""
    if error_number == LOCAL_NETWORK_ERROR:
        yield Finding(
            "local network",
            Level.FAILURE,
            "the broker cannot be reached: it is off, or macOS keeps this program from the local network",
            "System Settings, Privacy & Security, Local Network; a service (ltx-worker install) needs no permission",
        )
