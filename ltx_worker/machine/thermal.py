"""How hot the machine is, where it can be read without root: in degrees on Linux and of an NVIDIA GPU; a Mac tells only
how hard it is slowed down to keep cool.
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

LOOK_EVERY = 15.0
"""Seconds that an answer holds: asking may start a process."""
PATIENCE = 3.0
PLAUSIBLE = range(1, 150)
"""Degrees Celsius. Sensors that are not connected say 0, or less."""
PRESSURES = ("nominal", "moderate", "heavy", "trapping", "sleeping")
"""macOS's thermal pressure levels, from 0 on (libkern/OSThermalNotification.h; not iOS's, which count in tens)."""
_KEY = "com.apple.system.thermalpressurelevel"
_PRESSURE = re.compile(rf"{re.escape(_KEY)}\s+(\d+)")


class Heat(NamedTuple):
    """temperature: degrees Celsius, of the hottest sensor.  pressure: one of PRESSURES. None: not to be had here."""

    temperature: float | None = None
    pressure: str | None = None


class Thermometer:
    """Asks again every few seconds, from whichever thread wants to know."""

    def __init__(self) -> None:
        self._heat = Heat()
        self._looked_at = -LOOK_EVERY
        self._looking = threading.Lock()

    def read(self) -> Heat:
        """How hot it is; of now or a moment ago."""
        with self._looking:
            if time.monotonic() - self._looked_at >= LOOK_EVERY:
                self._heat, self._looked_at = _look(), time.monotonic()
            return self._heat


def parse_gpu_temperatures(output: str) -> list[float]:
    """One a GPU, in what nvidia-smi says; those that it cannot read are left out."""
    return [float(line) for line in output.split() if line.isdigit()]


def parse_pressure(output: str) -> str | None:
    """The word for the level in what notifyutil says."""
    match = _PRESSURE.search(output)
    level = int(match[1]) if match else len(PRESSURES)
    return PRESSURES[level] if level < len(PRESSURES) else None


def _look() -> Heat:
    if sys.platform == "darwin":
        return Heat(pressure=parse_pressure(output_of("notifyutil", "-g", _KEY, timeout=PATIENCE)))
    found = [*_sensors(), *_gpus()]
    plausible = [degrees for degrees in found if PLAUSIBLE.start <= degrees < PLAUSIBLE.stop]
    return Heat(temperature=max(plausible, default=None))


def _sensors() -> list[float]:
    """Of hwmon or the thermal zones."""
    ask: Any = getattr(psutil, "sensors_temperatures", dict)  # psutil has it on some systems only
    return [reading.current for readings in ask().values() for reading in readings]


def _gpus() -> list[float]:
    question = ("--query-gpu=temperature.gpu", "--format=csv,noheader,nounits")
    return parse_gpu_temperatures(output_of("nvidia-smi", *question, timeout=PATIENCE))
