"""What the farm shows of its jobs and workers, and how a watcher follows a job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from ltx_client.protocol.events import Event, UnreadableEvent, parse_event
from ltx_client.protocol.jobs import NO_LINKS, Job, Links
from ltx_client.protocol.state import Snapshot, Status, apply

__all__ = ["Follower", "JobView", "Update"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobView:
    """A job as it stands: as submitted (its priority as asked for last), its state, whether its cancel was asked,
    whether its owner is alive, what it has to do with other jobs, and whether it is paused.
    """

    job: Job
    submitted_at: float
    snapshot: Snapshot
    cancel_asked: bool
    leased: bool
    links: Links = NO_LINKS
    held: bool = False

    @property
    def status(self) -> Status:
        """CANCELLED, too, for a job that waits with its cancel asked: no worker will ever run it."""
        if self.snapshot.status is Status.QUEUED and self.cancel_asked:
            return Status.CANCELLED
        return self.snapshot.status

    @property
    def ended(self) -> bool:
        """Whether nothing can change any more."""
        return self.snapshot.ended or self.status is Status.CANCELLED

    @property
    def orphaned(self) -> bool:
        """Whether its worker has not been heard of for longer than a lease."""
        return self.snapshot.status is Status.RUNNING and not self.leased


@dataclass(frozen=True)
class Update:
    """What a watcher sees: an event (None: nothing happened), the state after it, and the job as just read."""

    event: Event | None
    snapshot: Snapshot
    view: JobView


class Follower:
    """One watcher's place in one job's events."""

    def __init__(self) -> None:
        self.ended = False
        self._snapshot = Snapshot()
        self._behind = False
        self._skipped = False

    @property
    def seq(self) -> int:
        """The number of the last event that was seen."""
        return self._snapshot.seq

    def advance(self, entries: list[tuple[int, bytes]], view: JobView) -> Iterator[Update]:
        """The updates that numbered events make. `view` was read after them, so it is at least as new.

        Where the log no longer goes back far enough, or cannot be read, the job's stored state stands for what it said.
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
