"""The commands `ltx-worker drain`, `resume`, `stop` and `status`, which signal this machine's worker or find it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

from ltx_client.shared.console.stdio import notice, print_line
from ltx_client.shared.settings import FarmSettings
from ltx_worker.commands.errors import unavailable
from ltx_worker.commands.service import installed_home
from ltx_worker.machine.home import LOCK, PID, last_refusal, problems_in
from ltx_worker.membership.instance_lock import DRAIN_SIGNAL, RESUME_SIGNAL, is_ending, running_worker

__all__ = ["drain", "resume", "status", "stop"]


def drain() -> None:
    """Make the worker finish its current job, take no more, and end."""
    _signal_worker(DRAIN_SIGNAL)
    notice("the worker ends after its current job")


def resume() -> None:
    """Make the worker take jobs again."""
    _signal_worker(RESUME_SIGNAL)
    notice("the worker takes jobs again, unless `ltx pause` keeps it from them")


def stop() -> None:
    """Make the worker give its job back, and end."""
    _signal_worker(signal.SIGTERM)
    notice("the worker ends; its job, if any, goes back to the queue")


def status() -> None:
    """Print whether a worker runs here, and exit with code 0 if so, else 1."""
    home, pid = _worker_here()
    state = "ending" if pid and is_ending(home, pid) else "running"
    print_line("not running" if pid is None else f"{state}, process {pid or 'unknown'}")
    if pid is None and (why := last_refusal(home)):
        notice(f"its last start failed: {why}")
    if installed_home():
        notice("it is a service of this machine; `ltx-worker logs` shows its log")
    sys.exit(1 if pid is None else 0)


def _signal_worker(number: signal.Signals) -> None:
    home, pid = _worker_here()
    if pid is None:
        raise click.UsageError(f"no worker runs here (LTX_HOME is {home})")
    if not pid:
        unavailable(f"a worker runs here, and its process id cannot be read in {home / PID}")
    try:
        os.kill(pid, number)
    except PermissionError:
        raise click.UsageError("the worker belongs to another user; use sudo") from None


def _worker_here() -> tuple[Path, int | None]:
    """Return the LTX_HOME, which is the service's if none is set, and the process id of its worker or None."""
    service = None if "LTX_HOME" in os.environ else installed_home()
    home = service or FarmSettings().home
    try:
        return home, running_worker(home)
    except PermissionError:
        raise click.UsageError(f"{home} belongs to another user; use sudo") from None
    except OSError as error:
        found = problems_in(home, (LOCK, PID))
        unavailable(found[0].text if found else f"LTX_HOME {home} cannot be read: {error.strerror}")
