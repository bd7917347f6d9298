"""Test that times that people see are by the broker's clock, whatever the clocks of workers and laptops show."""

import re
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from ltx_client.cli import main
from ltx_client.farm.farm import Farm
from ltx_client.protocol import clock, events
from ltx_client.protocol.clock import Clock
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Relations
from ltx_worker.machine.health import Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.settings import WorkerSettings

HOUR, DAY = 3600.0, 86400.0
SKEWS = [0.0, HOUR, -HOUR, 40 * DAY, -40 * DAY]


@pytest.fixture
def machine(monkeypatch):
    """Set whose clocks the process has at the moment; the broker's is right."""
    now = SimpleNamespace(wall=0.0, ticks=0.0)
    skewed = SimpleNamespace(time=lambda: time.time() + now.wall, monotonic=lambda: time.monotonic() + now.ticks)
    monkeypatch.setattr(clock, "time", skewed)
    for name, value in vars(Clock()).items():  # as in a process of its own
        monkeypatch.setattr(clock.CLOCK, name, value)
    return now


@pytest.mark.parametrize("wall", SKEWS)
def test_a_clock_shows_what_the_brokers_does(machine, redis_client, wall):
    machine.wall, machine.ticks = wall, 12345.0
    own = Clock()
    assert own.now() == pytest.approx(time.time() + wall, abs=59)
    own.measure(redis_client)
    assert own.now() == pytest.approx(time.time(), abs=59)
    machine.wall += 7 * DAY  # somebody sets it
    assert own.now() == pytest.approx(time.time(), abs=59)


def test_a_machine_that_slept_measures_anew(machine, redis_client):
    """Its monotonic clock did not run meanwhile; the wall clock shows it."""
    own = Clock()
    own.measure(redis_client)
    machine.ticks -= HOUR
    machine.wall = 0.0
    own.measure(redis_client)
    assert own.now() == pytest.approx(time.time(), abs=59)


def test_times_do_not_jitter_with_the_network(machine, redis_client, monkeypatch):
    own = Clock()
    own.measure(redis_client)
    ahead = own._ahead
    for late in (0.03, -0.03, 0.02, 0.0):
        machine.wall += 6  # so that it asks again
        machine.ticks += late
        own.measure(redis_client)
        machine.ticks -= late
    assert own._ahead == ahead
    asked = []
    monkeypatch.setattr(redis_client, "time", lambda: asked.append(1))
    own.measure(redis_client)
    assert not asked


@pytest.fixture
def told(machine, redis_client, names, ledger, client_ledger, make_job, tmp_path, monkeypatch):
    """Let a worker with that clock render a job of a batch, and return a farm as a laptop with that clock sees it."""

    def tell(worker_skew, laptop_skew):
        farm = Farm.over(redis_client, SecretStr("redis://localhost"), names, None)
        machine.wall = laptop_skew
        job = make_job(id="0123456789abcdef")
        batch = SimpleNamespace(id="the-batch", name="a.txt", jobs=[(job, None)])
        farm._run(farm._operations._batches.note(batch))
        client_ledger.submit(job, Relations(batch="the-batch", item=1))
        farm.pause_queue("pocket")
        machine.wall, clock.CLOCK._measured_at = worker_skew, (-HOUR, -HOUR)
        settings = WorkerSettings(home=tmp_path / "mac", worker_name="mac", namespace=names.namespace)
        heartbeat = Heartbeat(settings, redis_client, "pocket", Health("", None, None, hand_on=1))
        heartbeat._tell()
        attempt = ledger.claim(job.id, "w", "mac")
        ledger.emit(attempt, events.Stepped(step=1, steps=1, seconds=0.1))
        heartbeat.note_failure(job.id, "no")
        ledger.commit(attempt, events.Done(result=Result(video="a.mp4", sidecar="a.json", size=1, sha256="0")))
        heartbeat._tell()
        machine.wall = laptop_skew
        url = farm._operations.broker_url
        monkeypatch.setattr(Farm, "connect", lambda *_, **__: Farm.over(redis_client, url, names, None))
        return farm, job

    return tell


COMMANDS = {
    "jobs": (r" (\d[\d.]* \w+) +mac", "seconds"),
    "batches": (r"done +(\d[\d.]* \w+)", "seconds"),
    "workers": (r"up to|GB +(\d[\d.]* \w+) ago", "seconds"),
    "show 0123456789abcdef": (r"(?:submitted|took) +(\d[\d.]* \w+)", "seconds"),
    "stats": (r"pocket +mac +1 +(\d[\d.]* \w+)", "seconds"),
    "logs 0123456789abcdef": (r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)  ", "moment"),
    "gc --older-than 1h --dry-run": (r"would remove 0 files \(0\.0 MB\) and the records of (0) jobs", "none"),
}


@pytest.mark.parametrize("worker_skew", SKEWS)
@pytest.mark.parametrize("laptop_skew", SKEWS)
def test_every_command_shows_moments_by_the_brokers_clock(told, worker_skew, laptop_skew):
    farm, job = told(worker_skew, laptop_skew)
    view, (info,), (pause,) = farm.view(job.id), farm.workers(), farm.pauses()
    moments = [view.submitted_at, view.snapshot.started_at, view.snapshot.updated_at, view.snapshot.ended_at]
    moments += [info.started_at, info.seen_at, info.failed_at, pause.at, farm.batch("the-batch").submitted_at]
    moments += [update.event.at for update in farm.log(job.id) if update.event]
    assert max(abs(moment - time.time()) for moment in moments) < 59
    assert 0 <= view.snapshot.took < 59
    for command, (pattern, kind) in COMMANDS.items():
        result = CliRunner().invoke(main, command.split())
        assert result.exit_code == 0, result.output
        found = [text for text in re.findall(pattern, result.output) if text]
        assert found, result.output
        for text in found:
            if kind == "seconds":
                assert text.endswith(" s"), f"{command}: {text}"
                assert float(text.split()[0]) < 59
            elif kind == "moment":
                assert abs(time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S")) - time.time()) < 59
