"""The states of an attempt on its worker, in a table: which may follow which, and why."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["BEGINNINGS", "ENDS", "TRANSITIONS", "ForbiddenTransition", "State"]


class State(StrEnum):
    """What an attempt is at, or how it has ended."""

    CLAIMED = "claimed"
    FETCHING = "fetching"
    """Its pictures and clips, and what an earlier attempt has left."""
    RENDERING = "rendering"
    WRITING = "writing"
    """Its frames are decoded; the engine completes the MP4, and may render the next job."""
    DELIVERING = "delivering"
    SPOOLED = "spooled"
    """It waits until its video can be delivered; also while no worker runs."""
    COMMITTING = "committing"
    """What becomes of it is decided, and written to the ledger."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REQUEUED = "requeued"
    LOST = "lost"
    """Another attempt has taken over, or the job has ended without this one."""
    DROPPED = "dropped"
    """Nothing could be written of its end. Its lease lapses, and the reaper requeues the job."""


BEGINNINGS = {State.CLAIMED: "claim", State.SPOOLED: "found in the spool, after a restart"}
TRANSITIONS: dict[tuple[State, State], str] = {
    (State.CLAIMED, State.FETCHING): "the job is one for this worker",
    (State.CLAIMED, State.COMMITTING): "it is not, or the machine has a fault",
    (State.CLAIMED, State.DROPPED): "unexpected error",
    (State.FETCHING, State.RENDERING): "all is there",
    (State.FETCHING, State.COMMITTING): "an input is missing, or the machine has a fault",
    (State.FETCHING, State.LOST): "the ledger refuses its write",
    (State.FETCHING, State.DROPPED): "no broker while leaving",
    (State.RENDERING, State.WRITING): "frames decoded",
    (State.RENDERING, State.COMMITTING): "stopped, refused, or the engine died",
    (State.RENDERING, State.DROPPED): "unexpected error",
    (State.WRITING, State.DELIVERING): "MP4 complete",
    (State.WRITING, State.COMMITTING): "stopped, over its time limit, or not written",
    (State.WRITING, State.LOST): "its lease is another attempt's",
    (State.WRITING, State.DROPPED): "unexpected error",
    (State.DELIVERING, State.COMMITTING): "stored, cancelled, or not to be kept here",
    (State.DELIVERING, State.SPOOLED): "the storage is away",
    (State.DELIVERING, State.DONE): "an earlier commit was written, though no answer came",
    (State.DELIVERING, State.LOST): "the ledger refuses its renewal",
    (State.DELIVERING, State.DROPPED): "unexpected error",
    (State.SPOOLED, State.DELIVERING): "tried again",
    (State.COMMITTING, State.COMMITTING): "another end is to be written, as of a cancel that came first",
    (State.COMMITTING, State.DELIVERING): "tried again",
    (State.COMMITTING, State.SPOOLED): "the broker is away",
    (State.COMMITTING, State.DONE): "commit",
    (State.COMMITTING, State.FAILED): "fail, or release at a poison limit",
    (State.COMMITTING, State.CANCELLED): "cancel",
    (State.COMMITTING, State.REQUEUED): "release",
    (State.COMMITTING, State.LOST): "the ledger refuses its write",
    (State.COMMITTING, State.DROPPED): "no broker while leaving, or it refuses the write",
}
"""Every change of state that there is, and what makes it."""
ENDS = frozenset(State) - {before for before, _ in TRANSITIONS}


class ForbiddenTransition(Exception):
    """A step was to bring an attempt to a state that does not follow from the one that it is in: an error of ours."""

    def __init__(self, job_id: str, before: State, after: State) -> None:
        super().__init__(f"job {job_id}: its attempt is {before}, and cannot be {after} next")
