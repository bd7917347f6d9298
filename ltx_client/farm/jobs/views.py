"""Represent jobs as the farm shows them, and follow a job's events."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from ltx_client.protocol.events import Event, UnreadableEvent, parse_event
from ltx_client.protocol.jobs import NO_RELATIONS, Job, NewerJob, Relations
from ltx_client.protocol.state import Snapshot, Status, apply

__all__ = ["Follower", "JobView", "Update"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobView:
    """A job as it is now.

    Attributes:
        job: As it was submitted, with the priority that was set last.
        submitted_at: Seconds since 1970, by the broker's clock.
        snapshot: Its state.
        cancel_asked: Whether somebody has asked to cancel it.
        leased: Whether its running attempt is alive.
        relations: Its relations to other jobs.
        paused: Whether it is paused.
    """

    job: Job
    submitted_at: float
    snapshot: Snapshot
    cancel_asked: bool
    leased: bool
    relations: Relations = NO_RELATIONS
    paused: bool = False

    @property
    def status(self) -> Status:
        """Return the job's state; CANCELLED also for a waiting job whose cancel was asked, which no worker will run."""
        if self.snapshot.status is Status.QUEUED and self.cancel_asked:
            return Status.CANCELLED
        return self.snapshot.status

    @property
    def ended(self) -> bool:
        """Return whether the state can no longer change."""
        return self.snapshot.ended or self.status is Status.CANCELLED

    @property
    def newer(self) -> str:
        """Return what of the job this version does not know, and what to do, in a sentence; empty if it knows all."""
        return self.job.newer if isinstance(self.job, NewerJob) else ""

    @property
    def orphaned(self) -> bool:
        """Return whether its worker has not been heard of for longer than a lease."""
        return self.snapshot.status is Status.RUNNING and not self.leased


@dataclass(frozen=True)
class Update:
    """What a watcher receives: an event (None if nothing happened), the state after it, and the job as just read."""

    event: Event | None
    snapshot: Snapshot
    view: JobView


class Follower:
    """One watcher's position in one job's events."""

    def __init__(self) -> None:
        self.ended = False
        self._snapshot = Snapshot()
        self._behind = False
        self._skipped = False

    @property
    def seq(self) -> int:
        """Return the number of the last event that was seen."""
        return self._snapshot.seq

    def advance(self, entries: list[tuple[int, bytes]], view: JobView) -> Iterator[Update]:
        """Yield the updates that numbered events make.

        Where the log no longer goes back far enough, or cannot be read, the job's stored state replaces what it said.

        Args:
            entries: Numbers and events.
            view: The job, read after the events, so that it is at least as new.
        """
        cut = entries[0][0] != self.seq + 1 if entries else self._behind
        if cut:
            self._snapshot = view.snapshot
        for number, data in [] if cut else entries:
            try:
                event = parse_event(data)
            except UnreadableEvent as error:
                log.warning("job %s: event %d is left out: %s", view.job.id, number, error)
                event = None
            if event is None:  # or of a newer protocol
                self._skipped = True
                self._snapshot = self._snapshot.model_copy(update={"seq": number})
            else:
                self._snapshot = apply(self._snapshot, event)
                yield Update(event, self._snapshot, view)
        if self._skipped and self.seq == view.snapshot.seq:
            self._snapshot, self._skipped = view.snapshot, False
        self._behind = not entries and self.seq < view.snapshot.seq
        self.ended = view.ended and self.seq >= view.snapshot.seq
        yield Update(None, self._snapshot, view)
