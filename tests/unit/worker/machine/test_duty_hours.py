"""Test when a machine takes no new jobs, and that its consumption stops and starts accordingly."""

import os
import stat
import sys
from datetime import datetime

import psutil
import pytest
from pydantic import ValidationError

from ltx_client.protocol.state import Snapshot
from ltx_worker.machine import duty_hours
from ltx_worker.machine.duty_hours import DutyHours, parse_hours, parse_idle_time
from ltx_worker.machine.health import Fitness, Health
from ltx_worker.machine.keep_awake import awake
from ltx_worker.settings import WorkerSettings
from tests.integration.conftest import wait_until

IOREG = """+-o IOHIDSystem  <class IOHIDSystem, id 0x100000489, registered, matched, active, busy 0 (0 ms), retain 17>
    {
      "HIDIdleTime" = 41666791
      "HIDParameters" = {"JitterNoMove"=1}
    }
"""


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch):
    monkeypatch.setattr(duty_hours, "CHECK_EVERY", 0.0)


def duty(**options):
    defaults = {"battery": True, "unused_for": 0.0, "hours": (), "is_on_battery": lambda: True}
    return DutyHours(**{**defaults, "since_input": lambda: 1.0, **options})


def at(text):
    return lambda: datetime.fromisoformat(f"2026-01-01T{text}")


@pytest.mark.parametrize(
    ("hours", "now", "works"),
    [
        ("19:00-07:00", "18:59:59", False),
        ("19:00-07:00", "19:00:00", True),
        ("19:00-07:00", "00:00:00", True),
        ("19:00-07:00", "07:00:00", False),
        ("09:00-17:00", "12:00:00", True),
        ("09:00-17:00", "17:00:00", False),
        ("12:00-13:00, 22:00-24:00", "12:30:00", True),
        ("12:00-13:00, 22:00-24:00", "23:59:59", True),
        ("12:00-13:00, 22:00-24:00", "00:00:00", False),
        ("00:00-24:00", "03:00:00", True),
        ("", "03:00:00", True),
    ],
)
def test_hours(hours, now, works):
    why = duty(hours=parse_hours(hours), now=at(now)).why()
    assert (why == "") == works
    assert works or why == f"its duty hours are {hours}"


@pytest.mark.parametrize("text", ["19-7", "25:00-07:00", "19:60-07:00", "nights", "19:00-07:00;", "24:01-03:00"])
def test_hours_that_are_none(text, monkeypatch):
    with pytest.raises(ValueError, match="use a form such as 19:00-07:00"):
        parse_hours(text)
    monkeypatch.setenv("LTX_WORKER_HOURS", text)
    with pytest.raises(ValidationError, match="use a form such as 19:00-07:00"):
        WorkerSettings()


def test_battery():
    assert duty(battery=True).why() == ""
    assert duty(battery=False).why() == "it is on battery"
    assert duty(battery=False, is_on_battery=lambda: False).why() == ""


def test_a_person():
    assert duty(unused_for=300).why() == "somebody uses it (in the last 300 s)"
    assert duty(unused_for=300, since_input=lambda: 301.0).why() == ""
    assert "it is unknown" in duty(unused_for=300, since_input=lambda: None).why()
    assert duty(unused_for=0).why() == ""
    assert parse_idle_time(IOREG) == pytest.approx(0.041666791)
    assert parse_idle_time("") is None


@pytest.mark.skipif(sys.platform == "darwin", reason="it can be told there")
def test_a_wish_that_cannot_be_kept_is_refused(monkeypatch):
    monkeypatch.setenv("LTX_WORKER_UNUSED_FOR", "300")
    with pytest.raises(ValidationError, match="only macOS reports"):
        WorkerSettings()


class Consumption:
    consuming = True

    def stop(self):
        self.consuming = False

    def start(self):
        self.consuming = True


def test_the_consumption_follows():
    why, consumption = "it is on battery", Consumption()
    health = Health("me", lambda _: Snapshot(), lambda _: False, hand_on=60, why_off_duty=lambda: why)
    assert health.fitness is Fitness.OFF_DUTY  # before the first look: no job may slip in
    health.control(consumption)
    health.start()
    try:
        wait_until(lambda: not consumption.consuming)
        assert health.why_paused == "it is on battery"
        why = ""
        wait_until(lambda: consumption.consuming)
        assert health.fitness is Fitness.FIT
    finally:
        health.stop()


def test_an_answer_holds_for_a_while(monkeypatch):
    monkeypatch.setattr(duty_hours, "CHECK_EVERY", 60.0)
    asked = []
    machine = duty(battery=False, is_on_battery=lambda: asked.append(1) or True)
    assert {machine.why() for _ in range(3)} == {"it is on battery"}
    assert len(asked) == 1


def test_a_mac_stays_awake_while_it_renders(tmp_path):
    arguments = tmp_path / "arguments"
    caffeinate = tmp_path / "caffeinate"
    caffeinate.write_text(f'#!/bin/sh\necho "$@" > {arguments}\nexec sleep 60\n')
    caffeinate.chmod(caffeinate.stat().st_mode | stat.S_IXUSR)
    before = children()
    with awake("darwin", str(caffeinate)):
        wait_until(lambda: arguments.exists() and arguments.read_text())
        assert arguments.read_text().split() == ["-i", "-w", str(os.getpid())]
        assert len(children() - before) == 1
    assert children() == before


def test_a_render_goes_on_where_it_cannot_be_kept_awake(tmp_path):
    before, went_on = children(), False
    with awake("darwin", str(tmp_path / "none")), awake("linux", "/bin/false"):
        went_on = children() == before
    assert went_on


def children():
    return {child.pid for child in psutil.Process().children()}
