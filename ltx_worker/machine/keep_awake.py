"""Keeps a Mac from falling asleep while it renders; its display may sleep, and should: it shares the GPU."""

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
    """While inside, the machine does not sleep for want of a user. It ends with this process, however that ends."""
    if platform != "darwin":
        yield
        return
    try:
        holding = subprocess.Popen([caffeinate, "-i", "-w", str(os.getpid())], stdin=subprocess.DEVNULL)
    except OSError as error:
        log.warning("the machine may fall asleep while it renders: %s", error)
        yield
        return
    try:
        yield
    finally:
        holding.terminate()
        holding.wait()
