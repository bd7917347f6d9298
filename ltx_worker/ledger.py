"""The job ledger, worker's side: the scripts that decide who renders a job and what became of it.

Each runs atomically in Redis. Every write after the claim carries the attempt's number and token, and is
refused when another attempt is the current one (fencing), so at-least-once delivery still has one result.
Each script may be sent twice: the second sending changes nothing and gives the same answer. No script
decodes or encodes JSON; what is to be stored comes ready-made.

`state:{id}` is a hash: status, attempt, token, seq, snapshot; and for the poison limits furthest (the last step that
any attempt reached), deaths and lapses (since that step). No hash means queued, attempt 0, seq 0.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import redis

from ltx_client.protocol import events
from ltx_client.protocol.events import Event, Result
from ltx_client.protocol.jobs import Job, parse_job
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import RESULT_TTL, Snapshot, Status, apply, sources_of
from ltx_worker.scripts import SCRIPTS

__all__ = ["Attempt", "Ledger", "Refusal", "StaleAttempt", "Strike", "Verdict"]

PREVIEW_TTL = 3600
"""Seconds that the newest preview lives after the job's end."""
Args = list[str | int | bytes]


class Verdict(StrEnum):
    """What an owner learns from a write: go on, or that somebody asked for the job's end."""

    GO_ON = "go on"
    CANCEL = "cancel"


class Refusal(StrEnum):
    """Why a job was not claimed."""

    GONE = "gone"
    ENDED = "ended"
    LEASED = "leased"
    CANCELLED = "cancelled"


class Strike(StrEnum):
    """A way in which an attempt ends that may be the job's own fault."""

    DEATH = "deaths"
    """The engine died."""
    LAPSE = "lapses"
    """The worker let its lease lapse."""


POISON_LIMITS = {Strike.DEATH: 2, Strike.LAPSE: 3}
"""So many of one kind, with no step gained in between, fail a job."""

_GIVE_BACK_KEYS = "job state lease cancel events preview latents"


class StaleAttempt(Exception):
    """Another attempt is the current one, or the job ended: this one must stop and write nothing more."""


@dataclass
class Attempt:
    """A claim that was granted. `snapshot` is the job's state as this attempt has written it."""

    job_id: str
    number: int
    token: str
    snapshot: Snapshot = field(repr=False)


class Ledger:
    """The writes that a worker may make. `lease` in seconds.

    The methods raise StaleAttempt when the attempt is over, and redis.RedisError when Redis is away.
    """

    def __init__(self, client: redis.Redis, names: Names, lease: float = 60.0) -> None:
        self._client = client
        self._names = names
        self._lease = round(lease * 1000)
        self._scripts = {name: client.register_script(text) for name, text in SCRIPTS.items()}

    def claim(self, job_id: str, worker: str, worker_name: str) -> Attempt | Refusal:
        """Takes the job, if nobody holds it: raises the attempt number, sets a token, takes the lease.

        Of any number of workers that race for a job, one is granted. A job whose cancel was asked is ended
        here. A job whose last owner let its lease lapse may be claimed again.
        """
        token = secrets.token_hex(16)
        while True:
            state = self._read(job_id)
            claimed = events.Claimed(attempt=state.attempt + 1, worker=worker, worker_name=worker_name)
            cancelled = events.Cancelled()
            after = apply(state, claimed)
            args: Args = [after.attempt, token, after.seq, self._lease]
            args += [*_pair(claimed, after), *_pair(cancelled, apply(state, cancelled))]
            args += [RESULT_TTL, *sorted(sources_of(Status.RUNNING))]
            answer = self._run("claim", job_id, "job state lease cancel events preview latents", args)
            if answer == "claimed":
                return Attempt(job_id, after.attempt, token, after)
            if answer != "raced":
                return Refusal(answer)

    def job(self, attempt: Attempt) -> Job:
        """What the attempt is to render. Raises UnreadableJob."""
        spec: Any = self._client.hget(self._names.job(attempt.job_id), "spec")
        return parse_job(spec or b"")

    def renew(self, attempt: Attempt) -> Verdict:
        """Keeps the lease, or takes it back if it lapsed while nobody else claimed the job."""
        args: Args = [attempt.number, attempt.token, self._lease]
        return Verdict(self._run("renew", attempt.job_id, "state lease cancel", args))

    def emit(self, attempt: Attempt, event: Event, preview: bytes = b"") -> Verdict:
        """Writes one event: into the job's stream, its channel and its snapshot, under the next number.

        After an error whose outcome is unknown, the same event must be sent again before another.
        """
        after = apply(attempt.snapshot, event)
        step = event.step if isinstance(event, events.Stepped) else 0
        args: Args = [attempt.number, attempt.token, after.seq, *_pair(event, after), step, preview]
        verdict = Verdict(self._run("emit", attempt.job_id, "state events cancel preview", args))
        attempt.snapshot = after
        return verdict

    def commit(self, attempt: Attempt, event: events.Done | events.Failed | events.Cancelled) -> Verdict:
        """Ends the job. CANCEL: a cancel was accepted before, so a result is refused and nothing was written."""
        after = apply(attempt.snapshot, event)
        result: Result | None = after.result
        args: Args = [attempt.number, attempt.token, after.seq, after.status, *_pair(event, after)]
        args += [RESULT_TTL, PREVIEW_TTL, result.model_dump_json() if result else ""]
        args += sorted(sources_of(after.status))
        answer = self._run("commit", attempt.job_id, "job state lease cancel events preview result latents", args)
        if answer == "cancel":
            return Verdict.CANCEL
        attempt.snapshot = after
        return Verdict.GO_ON

    def save(self, attempt: Attempt, resume_point: bytes) -> None:
        """Keeps what the next attempt needs to go on from here. The newest wins; the job's end removes it."""
        args: Args = [attempt.number, attempt.token, resume_point]
        self._run("save", attempt.job_id, "state latents", args)

    def saved(self, job_id: str) -> bytes | None:
        """The newest resume point."""
        data: Any = self._client.get(self._names.latents(job_id))
        return None if data is None else bytes(data)

    def release(self, attempt: Attempt, reason: str, strike: Strike | None = None) -> Status:
        """Gives the job back to the queue; the caller sees to it that a message brings it to a worker again.

        With a `strike`, a job that has had its limit of them with no step gained in between is failed instead, with
        `reason` as its error. A job whose cancel was asked is ended as cancelled. Returns what became of it.
        """
        args: Args = [attempt.number, attempt.token, *_give_back_args(attempt.snapshot, reason, strike)]
        return Status(self._run("release", attempt.job_id, _GIVE_BACK_KEYS, args))

    def requeue(self, job_id: str, snapshot: Snapshot) -> Status | None:
        """In place of an owner that is gone: puts a running job without a lease back into the queue, or fails it at
        the limit of lapsed leases; ends a job without an owner whose cancel was asked.

        `snapshot` is the job as it was read. Returns what became of it; None when it was left as it is, since it
        has a live owner, has changed since, or needs nothing. Of any number that try at once, one does it.
        """
        reason = f"worker {snapshot.worker_name} stopped answering"
        args: Args = [snapshot.attempt, *_give_back_args(snapshot, reason, Strike.LAPSE)]
        answer = self._run("requeue", job_id, _GIVE_BACK_KEYS, args)
        return None if answer == "left" else Status(answer)

    def _read(self, job_id: str) -> Snapshot:
        snapshot = self._client.hget(self._names.state(job_id), "snapshot")
        return Snapshot() if snapshot is None else Snapshot.model_validate_json(snapshot)

    def _run(self, script: str, job_id: str, keys: str, args: Args) -> str:
        reply = self._scripts[script](keys=[getattr(self._names, key)(job_id) for key in keys.split()], args=args)
        answer = reply.decode() if isinstance(reply, bytes) else str(reply)
        if answer == "stale":
            raise StaleAttempt(f"{script}: attempt {args[0]!r} is no longer the current one")
        if answer == "gap":
            raise AssertionError(f"{script}: event {args[2]!r} does not follow the last one")
        return answer


def _give_back_args(snapshot: Snapshot, reason: str, strike: Strike | None) -> Args:
    outcomes: list[Event] = [events.Released(reason=reason), events.Failed(error=reason), events.Cancelled()]
    pairs = [text for event in outcomes for text in _pair(event, apply(snapshot, event))]
    limit = POISON_LIMITS[strike] if strike else 0
    return [snapshot.seq + 1, *pairs, strike or "", limit, RESULT_TTL]


def _pair(event: Event, after: Snapshot) -> tuple[str, str]:
    return event.model_dump_json(), after.model_dump_json()
