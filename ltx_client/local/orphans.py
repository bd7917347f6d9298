"""Stop a server whose keeper was killed: `python -m ltx_client.local.orphans HOME`."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from pathlib import Path

import psutil
from filelock import Timeout

from ltx_client.errors import FarmError
from ltx_client.local.members import FarmFolder

__all__ = ["stop_orphans"]

log = logging.getLogger(__name__)

SERVER = re.compile("valkey|redis")
STOP_TIMEOUT = 10.0


def stop_orphans(folder: FarmFolder) -> None:
    """Stop every server that runs on the farm's data; the data is kept. The caller has the keeper's lock.

    Raises:
        FarmError: A server does not exit.
    """
    servers = _servers_on(folder)
    for server in servers:
        log.warning("stopping server %d, which a killed keeper left behind", server.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            server.terminate()
    _, alive = psutil.wait_procs(servers, STOP_TIMEOUT)
    for server in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()
    _, alive = psutil.wait_procs(alive, STOP_TIMEOUT)
    if alive:
        raise FarmError(f"server {alive[0].pid} runs on {folder.path} and does not end; kill it and try again")


def _servers_on(folder: FarmFolder) -> list[psutil.Process]:
    """Return the servers that have a file of the farm open, including those of older versions, which have no lock."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and SERVER.search(process.name()) and _has_open(process, folder):
                found.append(process)
    return found


def _has_open(process: psutil.Process, folder: FarmFolder) -> bool:
    for parent in {Path(file.path).parent for file in process.open_files()}:
        for own in (folder.path, folder.journal):
            with contextlib.suppress(OSError):
                if parent.samefile(own):
                    return True
    return False


def _main(home: Path) -> None:
    folder = FarmFolder(home)
    try:
        with folder.keeper_lock().acquire(timeout=0):
            stop_orphans(folder)
    except Timeout:
        log.info("another keeper has the farm")


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    _main(Path(sys.argv[1]))
