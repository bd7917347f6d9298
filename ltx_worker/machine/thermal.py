"""Read how hot the machine is, where that needs no root.

Linux and NVIDIA GPUs report degrees; a Mac reports only how much it is slowed down to stay cool.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from typing import Any, NamedTuple

import psutil

from ltx_worker.machine.system_programs import output_of

__all__ = ["PRESSURES", "Heat", "Thermometer", "parse_gpu_temperatures", "parse_pressure"]

READ_EVERY = 15.0
"""Seconds between two readings: a reading may start a process."""
TIMEOUT = 3.0
PLAUSIBLE = range(1, 150)
"""Degrees Celsius. Sensors that are not connected report 0 or less."""
PRESSURES = ("nominal", "moderate", "heavy", "trapping", "sleeping")
"""macOS's thermal pressure levels, from 0 on (libkern/OSThermalNotification.h; iOS's, in tens, are others)."""
_KEY = "com.apple.system.thermalpressurelevel"
_PRESSURE = re.compile(rf"{re.escape(_KEY)}\s+(\d+)")


class Heat(NamedTuple):
    """How hot a machine is.

    Attributes:
        temperature: of the hottest sensor, in degrees Celsius; None if unknown.
        pressure: one of PRESSURES; None if unknown.
    """

    temperature: float | None = None
    pressure: str | None = None


class Thermometer:
    """Reads how hot the machine is, at most every few seconds; safe to use from any thread."""

    def __init__(self) -> None:
        self._heat = Heat()
        self._read_at = -READ_EVERY
        self._reading = threading.Lock()

    def read(self) -> Heat:
        """Return how hot the machine is, at most READ_EVERY seconds ago."""
        with self._reading:
            if time.monotonic() - self._read_at >= READ_EVERY:
                self._heat, self._read_at = _read(), time.monotonic()
            return self._heat


def parse_gpu_temperatures(output: str) -> list[float]:
    """Return the temperature of each GPU in nvidia-smi's output; those that it cannot read are left out."""
    return [float(line) for line in output.split() if line.isdigit()]


def parse_pressure(output: str) -> str | None:
    """Return the name of the pressure level in notifyutil's output, or None."""
    match = _PRESSURE.search(output)
    level = int(match[1]) if match else len(PRESSURES)
    return PRESSURES[level] if level < len(PRESSURES) else None


def _read() -> Heat:
    if sys.platform == "darwin":
        return Heat(pressure=parse_pressure(output_of("notifyutil", "-g", _KEY, timeout=TIMEOUT)))
    found = [*_sensors(), *_gpus()]
    plausible = [degrees for degrees in found if PLAUSIBLE.start <= degrees < PLAUSIBLE.stop]
    return Heat(temperature=max(plausible, default=None))


def _sensors() -> list[float]:
    """Return the temperatures that hwmon or the thermal zones report."""
    ask: Any = getattr(psutil, "sensors_temperatures", dict)  # psutil has it on some systems only
    return [reading.current for readings in ask().values() for reading in readings]


def _gpus() -> list[float]:
    question = ("--query-gpu=temperature.gpu", "--format=csv,noheader,nounits")
    return parse_gpu_temperatures(output_of("nvidia-smi", *question, timeout=TIMEOUT))
