"""How a command becomes a member of the embedded farm, starting it if nobody has."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ltx_client.errors import FarmError
from ltx_client.local.members import FarmFolder, Use
from ltx_client.local.server import Address, find_server
from ltx_models.model_files import find_files
from ltx_models.variants import find_variant

__all__ = ["join", "stop_up"]

JOIN_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0


@contextlib.contextmanager
def join(home: Path, use: Use, variant: str) -> Iterator[Address]:
    """Uses the farm while inside. Raises FarmError when it cannot be started, or cannot hold the variant."""
    if importlib.util.find_spec("mlx") is None:
        raise FarmError(
            "no broker is set, and this machine cannot render by itself; set LTX_BROKER_URL to the farm's broker,"
            " or run pip install 'ltx-farm[worker,embedded]'"
        )
    find_server()
    if use is not Use.READ:
        find_files(find_variant(variant))
    folder = FarmFolder(home)
    folder.create()
    with folder.roster_lock():
        membership = folder.enter(use, variant)
    try:
        yield _await_farm(folder, home)
    finally:
        membership.leave()
        _await_stop(folder)


def stop_up(home: Path) -> int:
    """Ends every `ltx up` of this home. Returns how many there were."""
    folder = FarmFolder(home)
    if not folder.path.exists():
        return 0
    with folder.roster_lock():
        members = [member for member in folder.members() if member.use is Use.UP]
    for member in members:
        os.kill(member.pid, signal.SIGTERM)
    return len(members)


def _await_farm(folder: FarmFolder, home: Path) -> Address:
    """The address of a farm that answers. Starts a keeper when there is none."""
    deadline = time.monotonic() + JOIN_TIMEOUT
    keeper: subprocess.Popen[bytes] | None = None
    while time.monotonic() < deadline:
        address = Address.read(folder.description)
        if address is not None and folder.is_kept() and address.answers():
            return address
        if keeper is not None and keeper.poll():
            break
        if (keeper is None or keeper.poll() == 0) and not folder.is_kept():
            keeper = _start_keeper(folder, home)
        time.sleep(0.05)
    raise FarmError(f"the embedded farm did not start; {_last_line(folder.keeper_log)}(see {folder.keeper_log})")


def _await_stop(folder: FarmFolder) -> None:
    """Returns when the farm has stopped, or at once when somebody else uses it."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while folder.is_kept() and time.monotonic() < deadline:
        with folder.roster_lock():
            if folder.members():
                return
        time.sleep(0.05)


def _start_keeper(folder: FarmFolder, home: Path) -> subprocess.Popen[bytes]:
    with folder.keeper_log.open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "ltx_client.local.keeper", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # It may outlive this command; a program that goes on after it takes note of its end.
    threading.Thread(target=keeper.wait, name="keeper", daemon=True).start()
    return keeper


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    words = [line for line in lines if line.strip()]
    return f"its last words: {words[-1]} " if words else ""
