"""Run rounds of kills on the embedded farm: of its keeper, mostly while that stops, its server, worker and members.

There are never two servers over one log, no job is lost, and nothing remains running.
"""

import contextlib
import json
import random
import threading
import time

import psutil
import pytest

from ltx_client.local.members import FarmFolder
from tests.integration.conftest import PROMPT, ltx, processes_of, start_ltx, wait_until

SUBMIT = ("submit", PROMPT, "--steps", "4", "--width", "64", "--height", "64", "--frames", "9")
LONGEST_LIFE = 4.0
"""Seconds until a round's victim is struck."""


class OneMachine:
    """The processes of one embedded farm, by their role."""

    def __init__(self, home, env):
        self.home = home
        self.env = env
        self.most_servers = 0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._count_servers, daemon=True)
        self._watch.start()

    def find(self, kind):
        signs = {"keeper": "ltx_client.local.keeper", "worker": "ltx_worker", "member": "up"}
        for process in processes_of(self.home):
            with contextlib.suppress(psutil.Error):
                is_server = process.name().startswith(("valkey", "redis"))
                if is_server if kind == "server" else signs[kind] in process.cmdline():
                    yield process

    def kill(self, kind):
        for process in self.find(kind):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _count_servers(self):
        farm = str(FarmFolder(self.home).path)
        while not self._ended.wait(0.05):
            servers = 0
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    servers += process.name().startswith(("valkey", "redis")) and process.cwd() == farm
            self.most_servers = max(self.most_servers, servers)

    def close(self):
        self._ended.set()
        self._watch.join()


@pytest.fixture
def machine(tmp_path, no_farm_env):
    home = tmp_path / "home [of] one"
    machine = OneMachine(home, {**no_farm_env, "LTX_HOME": str(home)})
    yield machine
    machine.close()


def strike(machine, draw, stopping):
    """Kill one of the farm's processes after a while; with `stopping`, soon after the farm was stopped."""
    victim = draw.choice(("keeper", "server", "worker", "member"))
    if stopping:
        victim = "keeper"
        time.sleep(draw.uniform(0, LONGEST_LIFE))
        ltx("up", "--stop", env=machine.env)
        time.sleep(draw.uniform(0, 1))
    else:
        time.sleep(draw.uniform(0, LONGEST_LIFE))
    machine.kill(victim)
    return victim


@pytest.mark.lane("chaos")
@pytest.mark.timeout(0)
def test_rounds_of_kills(machine, request, tell):
    rounds = max(3, request.config.getoption("--chaos-rounds") // 5)
    seed = request.config.getoption("--chaos-seed") or 1
    draw = random.Random(seed)
    submitted = 0
    for number in range(1, rounds + 1):
        command = start_ltx(*SUBMIT, env=machine.env)
        stopping = bool(number % 2)
        victim = strike(machine, draw, stopping)
        _, errors = command.communicate(timeout=120)
        submitted += command.returncode == 0
        assert command.returncode in (0, 1, 69), errors
        assert "Traceback" not in errors, errors
        tell(f"round {number}/{rounds} of seed {seed}: {victim} killed{', stopping' * stopping}; {errors[-60:]!r}")
        assert machine.most_servers <= 1, "two servers ran over one log"
    up = start_ltx("up", "--until-idle", env=machine.env)
    wait_until(lambda: all(job["status"] == "done" for job in jobs_of(machine)), 300, "all jobs being done")
    found = jobs_of(machine)
    assert len(found) >= submitted
    assert up.wait(60) == 0
    wait_until(lambda: not processes_of(machine.home), 30, "every process's end")
    videos = sorted(path.name for path in (machine.home / "videos").glob("*.mp4"))
    assert videos == sorted(job["state"]["result"]["video"] for job in found)
    assert machine.most_servers == 1
    tell(f"{rounds} rounds, {len(found)} jobs, all done; at most {machine.most_servers} server at a time")


def jobs_of(machine):
    done = ltx("jobs", "--json", "--limit", "1000", env=machine.env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
