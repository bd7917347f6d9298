"""Test workers of one farm with two storages: the later one takes no jobs, and everybody can see why."""

import pytest

from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.doctor.storage_checks import StorageChecks, different_storages
from ltx_client.shared.live_workers import live_workers
from ltx_models.errors import FaultKind, MachineFault
from ltx_worker.machine.health import Fitness, Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.settings import WorkerSettings
from tests.storages import made

RIGHT, WRONG = "a" * 32, "b" * 32


class Worker:
    """A worker.

    storage: its id. started: seconds after the first.
    """

    def __init__(self, name, storage, started, client, names, folder):
        settings = WorkerSettings(home=folder / name, worker_name=name, namespace=names.namespace)
        self.health = Health("", lambda _: None, lambda _: False, hand_on=60, probe=lambda _: self.probe())
        self.heartbeat = Heartbeat(settings, client, "pocket", self.health, storage)
        self.heartbeat._started += started

    def beat(self):
        self.heartbeat._common_storage._ask_at = 0.0
        self.heartbeat._tell()
        self.heartbeat._tell()
        return self.health.fitness

    def probe(self):
        try:
            self.heartbeat.check_storage()
        except MachineFault as fault:
            return fault
        return None

    def start(self):
        self.heartbeat.compare_storage()
        return self.beat()

    def probe_again(self):
        self.health._fault = self.health._fault and type(self.health._fault)(self.health._fault.fault, 0.0, 1.0)
        self.health._probe_again()
        return self.health.fitness


@pytest.fixture
def worker(redis_client, names, tmp_path):
    return lambda name, storage, started=0.0: Worker(name, storage, started, redis_client, names, tmp_path)


def test_who_comes_later_with_another_storage_takes_no_jobs_and_says_so(worker, redis_client, names):
    first, later, third = worker("first", RIGHT), worker("later", WRONG, 5), worker("third", RIGHT, 9)
    assert first.start() is Fitness.FIT
    assert later.start() is Fitness.PAUSED
    assert third.start() is Fitness.FIT
    assert first.beat() is Fitness.FIT
    assert later.health._fault.fault.kind is FaultKind.STORAGE
    listed = {one.name: one for one in live_workers(redis_client, names)}
    assert [listed[name].state for name in ("first", "later", "third")] == ["idle", "paused", "idle"]
    assert "is not that of worker first" in listed["later"].why_paused
    assert later.probe_again() is Fitness.PAUSED


def test_it_does_not_take_the_farm_over_while_the_others_are_started_again(worker):
    first, later = worker("first", RIGHT), worker("later", WRONG, 5)
    first.start()
    later.start()
    first.heartbeat.leave()
    assert (later.probe_again(), later.beat()) == (Fitness.PAUSED, Fitness.PAUSED)
    again = worker("first", RIGHT, 20)
    assert again.start() is Fitness.FIT


def test_it_takes_jobs_once_another_has_its_storage(worker):
    """The first one may have been wrong."""
    first, later = worker("first", WRONG), worker("later", RIGHT, 5)
    first.start()
    later.start()
    first.heartbeat.leave()
    assert worker("first", RIGHT, 9).start() is Fitness.FIT
    assert later.probe_again() is Fitness.FIT
    assert later.beat() is Fitness.FIT


@pytest.mark.parametrize(("one", "other"), [("", RIGHT), (RIGHT, ""), ("", ""), (RIGHT, RIGHT)])
def test_an_older_worker_that_says_no_storage_is_no_reason(worker, one, other):
    assert worker("one", one).start() is worker("other", other, 5).start() is Fitness.FIT


def info(name, storage):
    fields = {"chip": "x", "memory": 1, "budget_gb": 1.0, "variant": "pocket", "version": "1"}
    return WorkerInfo(id=name, name=name, started_at=0, seen_at=0, storage=storage, **fields)


def test_a_doctor_tells_storages_apart(tmp_path):
    storage = made(tmp_path / "store")
    here = storage.identify()
    same, other, old = info("same", here), info("other", WRONG), info("old", "")
    for workers, wrong in (
        ([], False),
        ([same], False),
        ([same, old], False),
        ([other], True),
        ([same, other, old], True),
    ):
        findings = list(StorageChecks(storage.url, workers=lambda workers=workers: workers).storage())
        failures = [
            finding for finding in findings if finding.level is Level.FAILURE and "same storage" in finding.text
        ]
        assert bool(failures) is wrong
        for finding in failures:
            assert f"{here[:8]}… of this machine" in finding.text and f"{WRONG[:8]}… of other" in finding.text
    assert different_storages([same, other]) is not None
    assert different_storages([same, old]) is None
