"""Own the embedded farm's server and worker: `python -m ltx_client.local.keeper HOME`.

The keeper ends when the last member is gone, or by SIGTERM: first the worker, which requeues its job, then the server.
Both end with the keeper, even if it is killed: the worker's standard input closes, and the guard stops the server.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from filelock import Timeout

from ltx_client.errors import FarmError
from ltx_client.local.address import Address
from ltx_client.local.members import FarmFolder, Use
from ltx_client.local.orphans import stop_orphans
from ltx_client.local.server import Server, last_words, log_size
from ltx_client.shared.console.stdio import LineFormatter, guarded

log = logging.getLogger(__name__)

LOOK_EVERY = 0.2
WORKER_STOP_TIMEOUT = 60.0
MAX_RESTART_DELAY = 60.0
USAGE = 2
"""The exit code of a worker with invalid settings."""

QUICK_LEASE = {"LTX_WORKER_LEASE": "15", "LTX_WORKER_RENEW_EVERY": "3"}
"""The lease in seconds; no network separates this worker from its broker, so that a dead worker is noticed sooner."""


class Guard:
    """A process that outlives keeper and worker, however they end, and then stops the server.

    It waits for the end of a pipe that both have open: the worker first requeues its job, which needs the server. Until
    then it is a shell, which costs next to nothing.
    """

    def __init__(self, home: Path) -> None:
        reading, self.handle = os.pipe()
        command = [sys.executable, "-m", "ltx_client.local.orphans", str(home)]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; exec "$@"', "sh", *command], stdin=reading, start_new_session=True
        )
        os.close(reading)

    def dismiss(self) -> None:
        """End the guard, after the server was stopped."""
        self._process.kill()
        self._process.wait()
        os.close(self.handle)


class Worker:
    """The farm's worker process: started when somebody wants to render, and restarted when it dies, ever more slowly.

    It serves one variant at a time: the current one if it is still wanted, otherwise the first wanted one.
    """

    def __init__(self, folder: FarmFolder, address: Address, home: Path, guard: Guard) -> None:
        self._variant = ""
        self._guard = guard
        self._log_path = folder.worker_log
        self._refusal = folder.refusal
        self._began_at = 0
        self._environment = {
            **QUICK_LEASE,
            **os.environ,
            "LTX_BROKER_URL": address.url.get_secret_value(),
            "LTX_BROKER_CA": "",
            "LTX_STORAGE_URL": str(folder.videos),
            "LTX_HOME": str(home),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._delay = 0.5
        self._not_before = 0.0

    def ensure(self, wanted: list[str]) -> None:
        """Start the process if it does not run and the wait since its last end is over."""
        if self._variant not in wanted:
            self.stop()
            self._refusal.unlink(missing_ok=True)
            self._variant = wanted[0]
        if self._process is not None and (code := self._process.poll()) is not None:
            self._note_end(code)
        if self._process is None and time.monotonic() >= self._not_before:
            self._began_at = log_size(self._log_path)
            with self._log_path.open("ab") as output:
                command = ["-m", "ltx_worker", "start", "--variant", self._variant, "--until-stdin-closes"]
                self._process = subprocess.Popen(
                    [sys.executable, *command],
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=(self._guard.handle,),
                    start_new_session=True,
                )

    def _note_end(self, code: int) -> None:
        """Schedule a restart; if its settings are invalid, write down why, so that nobody waits for it."""
        if code == USAGE:
            words = last_words(self._log_path, self._began_at).rpartition("Error: ")[2]
            self._refusal.write_text(words, encoding="utf-8")
        log.warning("the worker ended with code %s; starting it again in %g s", code, self._delay)
        self._forget()
        self._not_before = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, MAX_RESTART_DELAY)

    def _forget(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        self._process = None

    def stop(self) -> None:
        """Stop it, so that it requeues its job; kill it if it does not exit."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(WORKER_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()


def keep(home: Path) -> None:
    """Run the farm until nobody uses it. Return at once if another keeper runs it already."""
    folder = FarmFolder(home)
    lock = folder.keeper_lock()
    try:
        lock.acquire(timeout=1)
    except Timeout:
        return
    told_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: told_to_stop.set())
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        for path in (folder.description, folder.refusal):  # left by a killed keeper
            path.unlink(missing_ok=True)
        stop_orphans(folder)
        guard = Guard(home)
        stack.callback(guard.dismiss)
        server = Server(folder)
        stack.callback(server.stop)
        worker = Worker(folder, server.address, home, guard)
        stack.callback(worker.stop)
        server.address.write(folder.description)
        stack.callback(folder.description.unlink, missing_ok=True)
        while not told_to_stop.wait(LOOK_EVERY):
            if not server.alive():
                log.error("the server died, and the farm stops: %s", server.last_words())
                return
            if not _serve_members(folder, worker):
                return


def _serve_members(folder: FarmFolder, worker: Worker) -> bool:
    """Provide what the members need.

    Returns:
        False, with the farm closed to new members, if there are none.
    """
    with folder.roster_lock():
        members = folder.members()
        if not members:
            folder.description.unlink(missing_ok=True)
            return False
    for use in (Use.RENDER, Use.UP):  # members that wait at a terminal go first
        if wanted := [member.variant for member in members if member.use is use]:
            worker.ensure(wanted)
            break
    return True


if __name__ == "__main__":
    with guarded():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
        logging.basicConfig(level="INFO", handlers=[handler])
        try:
            keep(Path(sys.argv[1]))
        except (FarmError, OSError) as error:
            log.error("%s", error)
            sys.exit(os.EX_UNAVAILABLE)
