"""Why an engine died: of its machine, so that the job may do well on another, or perhaps of its job."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from ltx_models.errors import FaultKind, MachineFault
from ltx_models.machine_faults import fault_in_output

__all__ = ["host_fault", "kills_for_memory"]

VMSTAT = Path("/proc/vmstat")


def kills_for_memory() -> int | None:
    """How many processes Linux has killed for want of memory since it started; None elsewhere."""
    if not VMSTAT.exists():
        return None
    counts = dict(line.split() for line in VMSTAT.read_text().splitlines())
    return int(counts.get("oom_kill", 0))


def host_fault(code: int, output: Iterable[str], kills_before: int | None) -> MachineFault | None:
    """What was wrong with the machine, or None where it may have been the job.

    code: the process's exit code, or minus the signal that ended it, which was not sent by the worker.  output: its
    last lines.  kills_before: `kills_for_memory` when it was started.
    """
    if code == -signal.SIGBUS:
        return MachineFault("its memory could not be read or written", FaultKind.DISK)
    if code == -signal.SIGKILL and _killed_for_memory(kills_before):
        return MachineFault("the system killed it for want of memory", FaultKind.MEMORY)
    return fault_in_output("\n".join(output))


def _killed_for_memory(kills_before: int | None) -> bool:
    """macOS says nothing, but kills so (jetsam) and hardly otherwise."""
    kills = kills_for_memory()
    if kills is None or kills_before is None:
        return sys.platform == "darwin"
    return kills > kills_before
