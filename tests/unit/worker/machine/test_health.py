"""Test that a machine whose engine died takes nothing for a while, from that moment on."""

import itertools
import time
from types import SimpleNamespace

import pytest

from ltx_client.protocol import events
from ltx_client.protocol.state import Snapshot, apply
from ltx_models.errors import FaultKind, MachineFault
from ltx_models.families.stages import LTXV_STAGES
from ltx_worker.machine import health
from ltx_worker.machine.health import Fitness, Health


class Consumption:
    def __init__(self):
        self.calls = []

    def stop(self):
        self.calls.append("stop")

    def start(self):
        self.calls.append("start")


def test_it_stops_before_the_job_is_given_back_and_goes_on_after_its_rest(make_job, monkeypatch):
    monkeypatch.setattr(health, "FIRST_REST", 0.05)  # shorter than the time between two looks
    consumption = Consumption()
    machine = Health("w1", lambda job_id: None, lambda job: False, hand_on=0)
    machine.control(consumption)
    machine.start()
    machine.note_death(make_job(), (0, 0), "it died")
    assert consumption.calls == ["stop"]
    assert machine.fitness is Fitness.RESTING
    deadline = time.monotonic() + 60
    while "start" not in consumption.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    machine.stop()
    assert consumption.calls[-1] == "start"


FULL = MachineFault("the disk is full", FaultKind.SPACE, confirmed=True)


@pytest.fixture
def machine(monkeypatch):
    """Return a machine for which probes find `machine.found`, with frequent checks."""
    monkeypatch.setattr(health, "CHECK_EVERY", 0.01)
    monkeypatch.setattr(health, "FIRST_PROBE", 0.02)
    monkeypatch.setattr(health, "LONGEST_PROBE", 0.08)
    probed = []
    machine = Health("w1", lambda job_id: Snapshot(), lambda job: True, hand_on=60, probe=lambda kind: probe(kind))
    machine.found, machine.probed, machine.consumption = FULL, probed, Consumption()

    def probe(kind):
        probed.append((kind, time.monotonic()))
        return machine.found

    machine.control(machine.consumption)
    machine.start()
    yield machine
    machine.stop()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_fault_pauses_the_machine_until_a_probe_finds_it_gone(machine, make_job):
    changes = []
    machine.changed = lambda: changes.append(machine.fitness)
    machine.note_fault(FULL, make_job())
    assert machine.fitness is Fitness.PAUSED
    assert machine.why_paused == "the disk is full; it takes jobs again by itself once that is over"
    assert machine.consumption.calls == ["stop"]
    wait_for(lambda: len(machine.probed) >= 5)
    assert machine.fitness is Fitness.PAUSED
    waits = [after[1] - before[1] for before, after in itertools.pairwise(machine.probed)]
    assert waits[2] > 0.06, "it is probed for without a rest"
    machine.found = None
    wait_for(lambda: machine.fitness is Fitness.FIT)
    wait_for(lambda: machine.consumption.calls[-1] == "start")
    assert machine.why_paused == ""
    assert changes == [Fitness.PAUSED, Fitness.FIT]


def test_what_a_probe_finds_instead_is_told(machine):
    machine.found = MachineFault("ffmpeg does not run", FaultKind.FFMPEG, confirmed=True)
    machine.note_fault(FULL)
    wait_for(lambda: machine.why_paused.startswith("ffmpeg does not run"))


def test_somebody_who_resumes_it_ends_the_pause(machine):
    machine.note_fault(FULL)
    machine.resume()
    assert machine.fitness is Fitness.FIT


def test_a_fault_that_no_probe_finds_pauses_longer_each_time(make_job, monkeypatch):
    monkeypatch.setattr(health, "FIRST_PAUSE", 2.0)
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    machine = Health("w1", lambda job_id: Snapshot(), lambda job: True, hand_on=60)
    pauses = []
    for _ in range(12):
        machine.note_fault(MachineFault("permission denied", FaultKind.ACCESS), make_job())
        pauses.append(machine._fault.probe_at - 1000.0)
    assert [round(pause) for pause in pauses[:4]] == [2, 4, 8, 16]
    assert round(max(pauses)) == health.LONGEST_PAUSE
    machine.note_success()
    machine.note_fault(MachineFault("permission denied", FaultKind.ACCESS), make_job())
    assert round(machine._fault.probe_at - 1000.0) == 2


def test_a_success_does_not_make_it_take_a_job_that_others_are_to_try(make_job):
    others = [True]
    machine = Health("w1", lambda job_id: Snapshot(), lambda job: others[0], hand_on=0)
    nan, died = make_job(), make_job()
    machine.note_fault(MachineFault("NaN", FaultKind.NUMBERS), nan)
    machine.note_death(died, (0, 0), "it died")
    machine._rest_until = 0
    machine.note_success()
    assert machine.left_to_others() == {nan.id}
    others[0] = False
    assert not machine.left_to_others()


@pytest.mark.parametrize(
    ("reached", "is_this_machines"),
    [
        (events.Progress(stage="decode", done=16, of=25, seconds=1.0), False),  # its chunks are others
        (events.Stepped(stage="denoise", done=8, of=8, step=8, steps=8, seconds=1.0), True),
    ],
    ids=["frames", "steps"],
)
def test_three_jobs_that_another_machine_took_further_pause_this_one(make_job, reached, is_this_machines):
    stages = tuple(events.StagePlan(name=row.name, label=row.label, counts=row.counts) for row in LTXV_STAGES)
    claimed, began = events.Claimed(attempt=1, worker="w1", worker_name="one", stages=stages), reached.stage
    here = there = Snapshot()
    for event in (claimed, events.StageBegan(stage=began), reached.model_copy(update={"done": 7})):
        here = apply(here, event)
    for event in (claimed.model_copy(update={"worker": "w2"}), events.StageBegan(stage=began), reached):
        there = apply(there, event)
    machine = Health("w1", lambda job_id: there, lambda job: True, hand_on=60)
    for _ in range(health.LIMIT):
        machine.note_death(make_job(), here.position, "it died")
    machine._consider()
    assert bool(machine._paused) is is_this_machines
