"""Why an engine died: of its machine, so that the job may do well on another, or perhaps of its job."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["host_fault", "kills_for_memory"]

SIGNS = {
    # Metal's codes of a command buffer that failed, as MLX words them; the last is of a buffer that another one felled.
    r"kIOGPUCommandBufferCallbackErrorOutOfMemory|Insufficient Memory": "the GPU ran out of memory",
    r"kIOGPUCommandBufferCallbackError(Timeout|Hang)|Caused GPU (Timeout|Hang) Error": "the GPU took too long",
    r"kIOGPUCommandBufferCallbackErrorImpactingInteractivity|Impacting Interactivity": "a display needed the GPU",
    r"kIOGPUCommandBufferCallbackError(InnocentVictim|SubmissionsIgnored)|Innocent Victim": "the GPU was reset",
    # MLX's allocators and CUDA
    r"\[metal::malloc\]|\[malloc\]|\[malloc_or_wait\]|cudaErrorMemoryAllocation|CUDA out of memory": "memory ran out",
    r"\bMemoryError\b|std::bad_alloc|Cannot allocate memory": "memory ran out",
    r"CUDA error: (unspecified launch failure|an illegal instruction|uncorrectable ECC)|Xid": "the GPU failed",
}
"""What an engine's last output shows of its machine, and what that means."""
VMSTAT = Path("/proc/vmstat")


def kills_for_memory() -> int | None:
    """How many processes Linux has killed for want of memory since it started; None elsewhere."""
    if not VMSTAT.exists():
        return None
    counts = dict(line.split() for line in VMSTAT.read_text().splitlines())
    return int(counts.get("oom_kill", 0))


def host_fault(code: int, output: Iterable[str], kills_before: int | None) -> str | None:
    """What was wrong with the machine, or None where it may have been the job.

    code: the process's exit code, or minus the signal that ended it, which was not sent by the worker.  output: its
    last lines.  kills_before: `kills_for_memory` when it was started.
    """
    if code == -signal.SIGBUS:
        return "its memory could not be read or written"
    if code == -signal.SIGKILL and _killed_for_memory(kills_before):
        return "the system killed it for want of memory"
    text = "\n".join(output)
    return next((meaning for sign, meaning in SIGNS.items() if re.search(sign, text)), None)


def _killed_for_memory(kills_before: int | None) -> bool:
    """macOS says nothing, but kills so (jetsam) and hardly otherwise."""
    kills = kills_for_memory()
    if kills is None or kills_before is None:
        return sys.platform == "darwin"
    return kills > kills_before
