"""A look into a folder that may be of a share whose server is gone, which would hold whoever asks for ever."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["look_into"]

PATIENCE = 15.0
"""Seconds that a folder has to answer; a share that autofs mounts takes a while the first time."""
PROGRAM = """\
import os, sys
try:
    with os.scandir(sys.argv[1]) as entries:
        next(entries, None)
except OSError as error:
    print(error.errno or 0)
"""


def look_into(folder: Path) -> OSError | None:
    """Return what a look into a folder meets, TimeoutError where it does not answer in time; None if it can be read.

    The look is a process of its own: a hard mount lets nobody go, not even one who is killed, so it is left then.
    """
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(folder)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.DEVNULL, cwd=os.sep)
    try:
        said = process.communicate(timeout=PATIENCE)[0].strip()
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        return TimeoutError(errno.ETIMEDOUT, f"it has not answered within {PATIENCE:g} s", str(folder))
    number = int(said or 0)
    return OSError(number, os.strerror(number), str(folder)) if said else None
