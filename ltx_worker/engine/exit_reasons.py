"""Find out whether an engine died of its machine, so that another machine may render the job, or perhaps of the job."""

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
    """Return how many processes Linux has killed for lack of memory since it started; None on other systems."""
    if not VMSTAT.exists():
        return None
    counts = dict(line.split() for line in VMSTAT.read_text().splitlines())
    return int(counts.get("oom_kill", 0))


def host_fault(
    code: int, output: Iterable[str], kills_before: int | None, *, by_worker: bool = False
) -> MachineFault | None:
    """Return the machine's fault that ended an engine, or None if the job may have ended it.

    Args:
        code: the process's exit code, or minus the signal that ended it.
        output: the process's last lines.
        kills_before: the value of `kills_for_memory` when the process was started.
        by_worker: whether the worker has killed it.
    """
    if code == -signal.SIGBUS:
        return MachineFault("its memory could not be read or written", FaultKind.DISK)
    if code == -signal.SIGKILL and not by_worker and _killed_for_memory(kills_before):
        return MachineFault("the system killed it for lack of memory", FaultKind.MEMORY)
    return fault_in_output("\n".join(output))


def _killed_for_memory(kills_before: int | None) -> bool:
    """Return whether the system killed the process for lack of memory.

    macOS does not tell, but jetsam is nearly the only thing there that kills a process by SIGKILL.
    """
    kills = kills_for_memory()
    if kills is None or kills_before is None:
        return sys.platform == "darwin"
    return kills > kills_before
