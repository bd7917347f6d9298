"""Define what `Farm.changes` gives, and how it is read from what the broker publishes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import redis

from ltx_client.protocol.changes.messages import Change, UnreadableChange, parse_change
from ltx_client.protocol.events import Event, UnreadableEvent, parse_event
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.outages import error_code, is_outage
from ltx_client.shared.unexpected_data import tell_once

__all__ = ["BLOCK", "QUIET", "Feed", "Heard", "JobEvent", "ReadAgain", "Silence"]

BLOCK = 1.0
"""Seconds of one wait for a message, and between two tries to connect."""
PATIENCE = 60.0
"""Seconds for which a follower retries while the broker does not answer."""
QUIET = 5.0
"""Seconds without a message after which the broker is asked whether the connection still lives."""
ANSWER_WITHIN = 5.0
"""Seconds for that answer."""


@dataclass(frozen=True)
class ReadAgain:
    """Changes may have been missed: read what you show, then apply what follows. It is also the first item of all."""

    type: ClassVar[str] = "read_again"


@dataclass(frozen=True)
class JobEvent:
    """An event of a job, as its own channel publishes it.

    Attributes:
        job: The job's id.
        seq: The event's number. A gap after the last one that was seen is filled by `Farm.log`.
        event: The event; None for one of a newer version, or a damaged one.
    """

    type: ClassVar[str] = "job_event"
    job: str
    seq: int
    event: Event | None


Heard: TypeAlias = Change | JobEvent | ReadAgain


class Silence:
    """Tells a quiet farm from a connection that is dead without having been closed."""

    def __init__(self, now: float) -> None:
        self._heard_at = now
        self._is_asked = False

    def end(self, now: float) -> None:
        """Note that something came, or that nobody has listened until now."""
        self._heard_at, self._is_asked = now, False

    def is_to_ask(self, now: float) -> bool:
        """Return whether a ping is to be sent now.

        Raises:
            redis.TimeoutError: The last one was not answered.
        """
        quiet = now - self._heard_at
        if quiet > QUIET + ANSWER_WITHIN:
            raise redis.TimeoutError("the broker does not answer on a subscription")
        asks = quiet > QUIET and not self._is_asked
        self._is_asked |= asks
        return asks


class Feed:
    """What a follower subscribes to, and what it makes of messages.

    Args:
        names: The farm's names.
        progress: Whether to follow the jobs' own channels too.
        check: Raises FarmError once there is nothing to follow any more.
        errors: Turns errors of redis-py into those that `Farm` raises.
    """

    def __init__(
        self,
        names: Names,
        check: Callable[[], None],
        errors: Callable[[], contextlib.AbstractContextManager[None]],
        *,
        progress: bool,
    ) -> None:
        self.check = check
        self.errors = errors
        self.channel = names.changes()
        self.pattern = names.events("*") if progress else None
        self._events = names.events("")

    def read(self, message: dict[str, Any]) -> Heard | None:
        """Return what a message of redis-py's means; None for nothing, such as one of a kind that is not known."""
        match message["type"]:
            case "subscribe" if self.pattern is None:
                return ReadAgain()
            case "psubscribe":  # which comes after the other
                return ReadAgain()
            case "message":
                try:
                    return parse_change(message["data"])
                except UnreadableChange as error:
                    tell_once(f"on {self.channel}, {error}; it is ignored")
            case "pmessage":
                return self._read_event(message["channel"], message["data"])
        return None

    def _read_event(self, channel: bytes, data: bytes) -> JobEvent | None:
        job, (seq, _, text) = channel.decode(errors="replace").removeprefix(self._events), data.partition(b" ")
        if not seq.isdigit() or len(seq) > 18:
            tell_once(f"on {self._events}{job}, a message has no number; it is ignored")
            return None
        try:
            return JobEvent(job, int(seq), parse_event(text))
        except UnreadableEvent:
            return JobEvent(job, int(seq), None)

    @staticmethod
    def may_return(error: redis.RedisError, silent_for: float) -> bool:
        """Return whether to try again after an error, with no answer for so many seconds."""
        return is_outage(error) and error_code(error) != "NOPERM" and silent_for <= PATIENCE
