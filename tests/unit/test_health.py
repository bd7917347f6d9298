"""A machine whose engine died takes nothing for a while, from that moment on."""

import time

from ltx_worker import health
from ltx_worker.health import Fitness, Health


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
    machine.note_death(make_job(), 0, "it died")
    assert consumption.calls == ["stop"]
    assert machine.fitness is Fitness.RESTING
    deadline = time.monotonic() + 5
    while "start" not in consumption.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    machine.stop()
    assert consumption.calls[-1] == "start"
