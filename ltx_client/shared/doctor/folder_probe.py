"""Probe a folder that may be on a share whose server is gone, which would block the caller forever."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["probe_folder"]

TIMEOUT = 15.0
"""Seconds within which a folder must answer; a share that autofs mounts takes a while the first time."""
PROGRAM = """\
import os, sys
try:
    with os.scandir(sys.argv[1]) as entries:
        next(entries, None)
except OSError as error:
    print(error.errno or 0)
"""


def probe_folder(folder: Path) -> OSError | None:
    """Return the error of listing a folder, TimeoutError if it does not answer in time; None if it can be read.

    A child process lists it: a hard mount releases no process, not even a killed one, so the child is abandoned then.
    """
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(folder)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.DEVNULL, cwd=os.sep)
    try:
        said = process.communicate(timeout=TIMEOUT)[0].strip()
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        return TimeoutError(errno.ETIMEDOUT, f"it has not answered within {TIMEOUT:g} s", str(folder))
    number = int(said or 0)
    return OSError(number, os.strerror(number), str(folder)) if said else None
