"""When a machine takes no new work though it could: on battery, while a person uses it, outside given hours."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from datetime import time as TimeOfDay  # noqa: N812 - it is a class
from typing import NamedTuple

import psutil

from ltx_worker.machine.system_programs import output_of

__all__ = ["Hours", "OffDuty", "on_battery", "parse_hours", "seconds_since_input"]

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds that an answer holds: asking starts a process."""
_HOURS = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)")
_IDLE = re.compile(r'"HIDIdleTime" = (\d+)')


class Hours(NamedTuple):
    """A part of the day, by the machine's clock; it may go over midnight."""

    first: TimeOfDay
    last: TimeOfDay

    def hold(self, moment: TimeOfDay) -> bool:
        """Whether the moment lies within."""
        if self.first < self.last:
            return self.first <= moment < self.last
        return moment >= self.first or moment < self.last

    def __str__(self) -> str:
        last = f"{self.last:%H:%M}" if self.last > TimeOfDay.min else "24:00"
        return f"{self.first:%H:%M}-{last}"


def parse_hours(text: str) -> tuple[Hours, ...]:
    """Of "19:00-07:00", or several with commas. 24:00 is midnight. Raises ValueError."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _HOURS.fullmatch(part)
        try:
            if match is None:
                raise ValueError
            first, last = _time_of_day(match[1], match[2]), _time_of_day(match[3], match[4])
        except ValueError:
            raise ValueError(f"{part!r} is no part of a day; 19:00-07:00 would be one") from None
        found.append(Hours(first, last))
    return tuple(found)


def on_battery() -> bool:
    """Whether the machine has a battery and is not plugged in."""
    battery = psutil.sensors_battery()
    return battery is not None and battery.power_plugged is False


def seconds_since_input() -> float | None:
    """Seconds since somebody touched keyboard, mouse or trackpad of this Mac; None where that cannot be told."""
    if sys.platform != "darwin":
        return None
    return parse_idle_time(output_of("ioreg", "-c", "IOHIDSystem", "-d", "4"))


def parse_idle_time(output: str) -> float | None:
    """The idle time in what ioreg says of IOHIDSystem, which is in nanoseconds."""
    match = _IDLE.search(output)
    return int(match[1]) / 1e9 if match else None


class OffDuty:
    """Asks again every few seconds. battery: whether to work on it.  unused_for: seconds that nobody may have touched
    the machine for, 0 for no such wish.  hours: when to work, at any time if there are none.
    """

    def __init__(
        self,
        *,
        battery: bool,
        unused_for: float,
        hours: tuple[Hours, ...],
        is_on_battery: Callable[[], bool] = on_battery,
        since_input: Callable[[], float | None] = seconds_since_input,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._battery = battery
        self._unused_for = unused_for
        self._hours = hours
        self._is_on_battery = is_on_battery
        self._since_input = since_input
        self._now = now
        self._why = ""
        self._looked_at = -LOOK_EVERY
        self._looking = threading.Lock()

    def why(self) -> str:
        """Why no work is taken now, in a sentence; nothing where it is."""
        with self._looking:
            if time.monotonic() - self._looked_at >= LOOK_EVERY:
                why = self._look()
                if why != self._why:
                    log.info("takes no new jobs: %s", why) if why else log.info("takes jobs again")
                self._why, self._looked_at = why, time.monotonic()
            return self._why

    def _look(self) -> str:
        if self._hours and not any(hours.hold(self._now().time()) for hours in self._hours):
            return f"it works {', '.join(map(str, self._hours))}"
        if not self._battery and self._is_on_battery():
            return "it is on battery"
        if self._unused_for:
            since = self._since_input()
            if since is None:  # a moment's trouble, or a macOS that says it otherwise: a person comes first
                return "it cannot be told whether somebody uses it: ioreg names no HIDIdleTime"
            if since < self._unused_for:
                return f"somebody uses it (in the last {self._unused_for:g} s)"
        return ""


def _time_of_day(hour: str, minute: str) -> TimeOfDay:
    return TimeOfDay(0, 0) if (hour, minute) == ("24", "00") else TimeOfDay(int(hour), int(minute))
