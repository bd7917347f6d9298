"""Read the output of the system's own programs; a program that is missing, slow or fails to start has none."""

from __future__ import annotations

import os
import shutil
import subprocess

__all__ = ["find", "output_of"]

FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")
"""The folders of a system's programs; the PATH of a service may lack some."""
TIMEOUT = 5.0
"""Seconds."""


def find(program: str) -> str | None:
    """Return the path of a program, from PATH or else the system's folders; None if it is missing."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *FOLDERS]))


def output_of(program: str, *arguments: str, timeout: float = TIMEOUT) -> str:
    """Return what a program of the system writes to stdout; "" if it is missing, does not start or is slow."""
    path = find(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
