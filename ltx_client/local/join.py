"""Make a command a member of the embedded farm, and start the farm if nobody has."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ltx_client.errors import BrokerUnreachable, FarmError
from ltx_client.local.address import Address
from ltx_client.local.members import FarmFolder, Use
from ltx_client.local.server import find_server, last_words, log_size
from ltx_client.shared.memory_budget import BudgetSettings, check_serves
from ltx_models.families.variants import find_variant
from ltx_models.files.file_lock import why_not_lockable
from ltx_models.files.model_files import find_files

__all__ = ["check_renders", "how_to_render", "join", "stop_up", "why_stopped"]

JOIN_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
STARTS = 10
"""How many keepers are started for one command: the first may be killed, or exit since another one was quicker."""
PAUSE = 0.2
"""Seconds before the second keeper is started, and added for each further one."""
ROOM = 1 << 20
"""Bytes of free space that a farm needs to start."""


@contextlib.contextmanager
def join(home: Path, use: Use, variant: str) -> Iterator[Address]:
    """Use the farm while inside.

    Raises:
        FarmError: It cannot be started, or cannot render the variant.
    """
    if importlib.util.find_spec("mlx") is None:
        raise FarmError(
            "no broker is set, and this machine cannot render by itself; set LTX_BROKER_URL to the farm's broker,"
            f" or {how_to_render()}"
        )
    find_server()
    if use is not Use.READ:
        check_renders(variant)
    folder = FarmFolder(home)
    if problems := folder.problems():
        raise BrokerUnreachable(f"LTX_HOME {home} cannot be used: {problems[0].text}")
    with _home_errors(home):
        folder.create()
        _check_locks(folder, home)
        with folder.roster_lock():
            membership = folder.enter(use, variant)
    try:
        with _home_errors(home):
            address = _await_farm(folder, home)
        yield address
    finally:
        membership.leave()
        _await_stop(folder)


def check_renders(variant: str) -> None:
    """Check that this machine has the memory and the files for a variant.

    Raises:
        ModelError: It does not.
    """
    check_serves(find_variant(variant), BudgetSettings().worker_memory_gb)
    find_files(find_variant(variant))


def how_to_render() -> str:
    """Return how this machine, which lacks MLX, can render; pip finds no MLX for an Intel Python on a Mac."""
    if sys.platform == "darwin" and platform.machine() != "arm64":
        return "use a Python for arm64 (brew install uv) on a Mac with Apple silicon: there is no MLX for this one"
    return "run pip install 'ltx-farm[worker,embedded]'"


def stop_up(home: Path) -> int:
    """Stop every `ltx up` of this home.

    Returns:
        How many there were.
    """
    folder = FarmFolder(home)
    if not folder.path.exists():
        return 0
    with _home_errors(home):
        _check_locks(folder, home)
    with _home_errors(home), folder.roster_lock():
        members = [member for member in folder.members() if member.use is Use.UP]
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGTERM)
    return len(members)


def _check_locks(folder: FarmFolder, home: Path) -> None:
    """Raise BrokerUnreachable if the file system has no locks, which show who uses the farm; raise OSError."""
    if why := why_not_lockable(folder.path):
        raise BrokerUnreachable(f"LTX_HOME {home} {why}")


@contextlib.contextmanager
def _home_errors(home: Path) -> Iterator[None]:
    """Turn errors of the file system into BrokerUnreachable, with LTX_HOME in the message."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise BrokerUnreachable(
            f"LTX_HOME {home} cannot be used: {why}; it must be a folder that this user can write, with space left"
        ) from error


def _await_farm(folder: FarmFolder, home: Path) -> Address:
    """Return the address of a farm that answers. Start a keeper if there is none, or one was killed."""
    deadline = time.monotonic() + JOIN_TIMEOUT
    keeper: subprocess.Popen[bytes] | None = None
    since = starts = 0
    not_before = 0.0
    while time.monotonic() < deadline:
        address = folder.address()
        if address is not None and folder.is_kept() and address.answers():
            return address
        code = keeper.poll() if keeper is not None else 0
        if code == os.EX_UNAVAILABLE or (code is not None and starts == STARTS):
            break
        if code is not None and time.monotonic() >= not_before and not folder.is_kept():
            since, starts = log_size(folder.keeper_log), starts + 1
            not_before = time.monotonic() + PAUSE * starts
            keeper = _start_keeper(folder, home)
        time.sleep(0.05)
    words = last_words(folder.keeper_log, since)
    why = words.partition(" ERROR ")[2] or words or f"its keeper said nothing within {JOIN_TIMEOUT:g} s"
    raise BrokerUnreachable(f"this machine's farm did not start: {why} ({_where_to_see(folder)})")


def _await_stop(folder: FarmFolder) -> None:
    """Return when the farm has stopped, or at once if somebody else uses it."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while (folder.is_kept() or folder.server_lock.is_taken()) and time.monotonic() < deadline:
        with folder.roster_lock():
            if folder.members():
                return
        time.sleep(0.05)


def _start_keeper(folder: FarmFolder, home: Path) -> subprocess.Popen[bytes]:
    with folder.keeper_log.open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "ltx_client.local.keeper", str(home)],
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # nothing is imported from the current folder
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # It may outlive this command; a program that continues reaps it.
    threading.Thread(target=keeper.wait, name="keeper", daemon=True).start()
    return keeper


def why_stopped(folder: FarmFolder) -> str:
    """Return a sentence on a farm that ended while it was in use."""
    return (
        f"this machine's farm stopped unexpectedly ({_where_to_see(folder)}); its jobs are kept, and `ltx up`"
        " continues them"
    )


def _where_to_see(folder: FarmFolder) -> str:
    if shutil.disk_usage(folder.path).free < ROOM:  # so its log could not be written either
        return f"the disk of {folder.path} is full"
    return f"see {folder.keeper_log}"
