"""Raise the limit on open files and sockets of the worker."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["raise_limit"]

ENOUGH = 4096
"""macOS allows at most 10,240 by default, and gives 256 to what launchd starts; Linux gives 1,024."""


def raise_limit(enough: int = ENOUGH) -> int:
    """Raise this process's limit on open files as far as the system allows; return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
