"""What the system's own programs print: of a program that is missing, slow or odd, nothing, and nobody waits for it."""

from __future__ import annotations

import os
import shutil
import subprocess

__all__ = ["find", "output_of"]

FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")
"""Where a system has its programs; a service's PATH need not name them all."""
PATIENCE = 5.0
"""Seconds."""


def find(program: str) -> str | None:
    """Return the path of a program, looked for in PATH and then where systems have theirs; None if it is missing."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *FOLDERS]))


def output_of(program: str, *arguments: str, timeout: float = PATIENCE) -> str:
    """Return what a program of the system prints on its output; "" where it is missing, does not run or is slow."""
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
