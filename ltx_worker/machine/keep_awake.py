"""Prevent a Mac from sleeping while it renders; its display may sleep, and should, since it shares the GPU."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["awake"]

log = logging.getLogger(__name__)

CAFFEINATE = "/usr/bin/caffeinate"


@contextlib.contextmanager
def awake(platform: str = sys.platform, caffeinate: str = CAFFEINATE) -> Iterator[None]:
    """Prevent the machine from sleeping while inside; this ends with the process, however the process ends."""
    if platform != "darwin":
        yield
        return
    try:
        process = subprocess.Popen([caffeinate, "-i", "-w", str(os.getpid())], stdin=subprocess.DEVNULL)
    except OSError as error:
        log.warning("the machine may sleep while it renders: %s", error)
        yield
        return
    try:
        yield
    finally:
        process.terminate()
        process.wait()
