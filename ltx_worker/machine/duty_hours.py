"""Decide when a healthy machine takes no new jobs: on battery, while a person uses it, outside its duty hours."""

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

__all__ = ["DutyHours", "Hours", "on_battery", "parse_hours", "seconds_since_input"]

log = logging.getLogger(__name__)

CHECK_EVERY = 5.0
"""Seconds between two checks: a check may start a process."""
_HOURS = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)")
_IDLE = re.compile(r'"HIDIdleTime" = (\d+)')


class Hours(NamedTuple):
    """A part of the day, by the machine's clock; it may include midnight."""

    first: TimeOfDay
    last: TimeOfDay

    def includes(self, moment: TimeOfDay) -> bool:
        """Return whether a time of day is in these hours."""
        if self.first < self.last:
            return self.first <= moment < self.last
        return moment >= self.first or moment < self.last

    def __str__(self) -> str:
        last = f"{self.last:%H:%M}" if self.last > TimeOfDay.min else "24:00"
        return f"{self.first:%H:%M}-{last}"


def parse_hours(text: str) -> tuple[Hours, ...]:
    """Return the hours of a text such as "19:00-07:00", or several with commas; 24:00 is midnight.

    Raises:
        ValueError: the text has another form.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _HOURS.fullmatch(part)
        try:
            if match is None:
                raise ValueError
            first, last = _time_of_day(match[1], match[2]), _time_of_day(match[3], match[4])
        except ValueError:
            raise ValueError(
                f"{part!r} is invalid: two times of a day are needed; use a form such as 19:00-07:00"
            ) from None
        found.append(Hours(first, last))
    return tuple(found)


def on_battery() -> bool:
    """Return whether the machine has a battery and is not plugged in."""
    battery = psutil.sensors_battery()
    return battery is not None and battery.power_plugged is False


def seconds_since_input() -> float | None:
    """Return the seconds since the last input at this Mac's keyboard, mouse or trackpad; None if unknown."""
    if sys.platform != "darwin":
        return None
    return parse_idle_time(output_of("ioreg", "-c", "IOHIDSystem", "-d", "4"))


def parse_idle_time(output: str) -> float | None:
    """Return the idle time, in seconds, in ioreg's output about IOHIDSystem; None if it has none."""
    match = _IDLE.search(output)
    return int(match[1]) / 1e9 if match else None


class DutyHours:
    """Decides whether a machine is off duty, and remembers the answer for a few seconds.

    Args:
        battery: whether to take jobs on battery.
        unused_for: seconds for which nobody must have touched the machine; 0 for no such condition.
        hours: when to take jobs; always if there are none.
        is_on_battery: reports whether the machine runs on battery.
        since_input: reports the seconds since the last input.
        now: the machine's clock.
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
        self._checked_at = -CHECK_EVERY
        self._checking = threading.Lock()

    def why(self) -> str:
        """Return why no new jobs are taken now, in a sentence; "" if they are."""
        with self._checking:
            if time.monotonic() - self._checked_at >= CHECK_EVERY:
                why = self._check()
                if why != self._why:
                    log.info("takes no new jobs: %s", why) if why else log.info("takes jobs again")
                self._why, self._checked_at = why, time.monotonic()
            return self._why

    def _check(self) -> str:
        if self._hours and not any(hours.includes(self._now().time()) for hours in self._hours):
            return f"its duty hours are {', '.join(map(str, self._hours))}"
        if not self._battery and self._is_on_battery():
            return "it is on battery"
        if self._unused_for:
            since = self._since_input()
            if since is None:  # ioreg failed once, or this macOS reports it in another way: a person comes first
                return "it is unknown whether somebody uses it: the output of ioreg has no HIDIdleTime"
            if since < self._unused_for:
                return f"somebody uses it (in the last {self._unused_for:g} s)"
        return ""


def _time_of_day(hour: str, minute: str) -> TimeOfDay:
    return TimeOfDay(0, 0) if (hour, minute) == ("24", "00") else TimeOfDay(int(hour), int(minute))
