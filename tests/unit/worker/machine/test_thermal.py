"""Test how hot a machine is, as each system reports it."""

import sys
from types import SimpleNamespace

import psutil
import pytest

from ltx_worker.machine.thermal import Heat, Thermometer, parse_gpu_temperatures, parse_pressure


def sensors(*degrees):
    return lambda: {"coretemp": [SimpleNamespace(current=current) for current in degrees]}


@pytest.mark.parametrize(
    ("output", "pressure"),
    [
        ("com.apple.system.thermalpressurelevel 0\n", "nominal"),
        ("com.apple.system.thermalpressurelevel 2\n", "heavy"),
        ("com.apple.system.thermalpressurelevel 20\n", None),
        ("com.apple.system.thermalpressurelevel: failed", None),
        ("", None),
    ],
)
def test_what_notifyutil_says(output, pressure):
    assert parse_pressure(output) == pressure


def test_what_nvidia_smi_says():
    assert parse_gpu_temperatures("41\n37\n") == [41.0, 37.0]
    assert parse_gpu_temperatures("[N/A]\n") == parse_gpu_temperatures("") == []


def test_on_linux_it_is_the_hottest_of_sensors_and_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(psutil, "sensors_temperatures", sensors(51.0, 0.0, 65261.8, -274.0), raising=False)
    smi = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Thermometer().read() == Heat(temperature=51.0)
    smi.write_text("#!/bin/sh\necho 63\n")
    smi.chmod(0o755)
    thermometer = Thermometer()
    assert thermometer.read() == Heat(temperature=63.0)
    smi.unlink()
    assert thermometer.read() == Heat(temperature=63.0), "it is not asked anew each time"
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert Thermometer().read() == Heat()
