"""The job ledger, worker's side: the scripts that decide who renders a job and what became of it.

Each runs atomically in Redis. Every write after the claim carries the attempt's number and token, and is
refused when another attempt is the current one (fencing), so at-least-once delivery still has one result.
Each script may be sent twice: the second sending changes nothing and gives the same answer. No script
decodes or encodes JSON; what is to be stored comes ready-made.

`state:{id}` is a hash: status, attempt, token, seq, snapshot; tokens: what names show of all tokens that were granted,
the newest first (`ltx_worker.ledger.ownership`); and for the poison limits furthest (the last step
that any attempt reached),
how many strikes of each kind there were since that step, and not_finite_by, the machines that had one of that kind. No
hash means queued, attempt 0, seq 0.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import redis

from ltx_client.protocol import events
from ltx_client.protocol.events import Event, Result
from ltx_client.protocol.file_names import TOKEN_SHOWN, attempt_name
from ltx_client.protocol.jobs import Job, Links, UnreadableJob, parse_job, parse_links
from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import queue_field, worker_field
from ltx_client.protocol.state import RESULT_TTL, Snapshot, Status, apply, parse_snapshot, sources_of
from ltx_client.protocol.turns import GIVEN_BACK, line_entry, line_keys, turn_of
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.lua.lua_script import Argument, RegisteredScript
from ltx_client.shared.unexpected_data import read_or, tell_once
from ltx_models.memory import memory_class
from ltx_worker.ledger.ownership import Ownership, read_ownership
from ltx_worker.ledger.scripts import SCRIPTS
from ltx_worker.ledger.selection import NextTurn, Turn

__all__ = ["Claim", "Ledger", "Refusal", "StaleAttempt", "Strike", "Verdict"]

log = logging.getLogger(__name__)

T = TypeVar("T")

PREVIEW_TTL = 3600
"""Seconds that the newest preview lives after the job's end."""
MOST_RACES = 20
"""Tries of one claim: as often as others may have changed the job meanwhile, and no state is worth more."""
Named = dict[str, Argument]
"""What a script is given, by its names; keys of the job are added."""


class Verdict(StrEnum):
    """What an owner learns from a write: go on, or that somebody asked for the job's end, or for a pause."""

    GO_ON = "go on"
    CANCEL = "cancel"
    PAUSE = "pause"


class Refusal(StrEnum):
    """Why a job was not claimed."""

    GONE = "gone"
    ENDED = "ended"
    LEASED = "leased"
    CANCELLED = "cancelled"
    HELD = "held"
    UNREADABLE = "its state cannot be read"
    ELSEWHERE = "for other workers"
    """It is of another variant, or needs more memory than this worker may use."""
    PAUSED = "paused"
    """Not the job: the worker, or its queue."""


class Strike(StrEnum):
    """A way in which an attempt ends that may be the job's own fault."""

    DEATH = "deaths"
    """The engine died."""
    HOST_FAULT = "host_faults"
    """Memory or the GPU failed, and the machine shows nothing of that without the job."""
    MISHAP = "mishaps"
    """Something else of the machine failed, and it shows nothing of that without the job."""
    NOT_FINITE = "not_finite"
    """NaN or infinite values came out. The same machine is counted once."""
    LAPSE = "lapses"
    """The worker let its lease lapse."""


POISON_LIMITS = {Strike.DEATH: 2, Strike.HOST_FAULT: 4, Strike.MISHAP: 8, Strike.NOT_FINITE: 2, Strike.LAPSE: 3}
"""So many of one kind, with no step gained in between, fail a job."""

TOKENS_REMEMBERED = 100 * (TOKEN_SHOWN + 1)
"""Characters: of the newest 100 attempts of a job, it is remembered that this farm has granted them."""


class StaleAttempt(Exception):
    """Another attempt is the current one, or the job ended: this one must stop and write nothing more."""


class _ServerIsBehind(Exception):
    """The server does not have the events that this attempt wrote last."""


@dataclass
class Claim:
    """A claim that was granted. `snapshot` is the job's state as this attempt has written it; `unsure` are events that
    may have been written since, for no answer came.  spec: the job's record, as the claim has read it.
    """

    job_id: str
    number: int
    token: str
    snapshot: Snapshot = field(repr=False)
    unsure: tuple[Event, ...] = field(default=(), repr=False)
    spec: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What all that it owns is called by, in the storage and on this machine: no other attempt has the same, even
        one with the same number, after a server came back without its last writes.
        """
        return attempt_name(self.job_id, self.number, self.token)


class Ledger(NextTurn):
    """The writes that a worker may make. `lease` in seconds.

    The methods raise StaleAttempt when the attempt is over, and redis.RedisError when Redis is away.
    """

    def __init__(self, client: redis.Redis, names: Names, lease: float = 60.0) -> None:
        super().__init__(client, names)
        self._lease = round(lease * 1000)
        self._scripts = {name: RegisteredScript(client, script) for name, script in SCRIPTS.items()}

    def claim(
        self,
        job_id: str,
        worker: str,
        worker_name: str,
        variant: str = "",
        token: str | None = None,
        *,
        budget_gb: float = math.inf,
        turn: Turn | None = None,
    ) -> Claim | Refusal:
        """Takes the job, if nobody holds it: raises the attempt number, sets a token, takes the lease.

        Of any number of workers that race for a job, one is granted. A job whose cancel was asked is ended
        here. A job whose last owner let its lease lapse may be claimed again. Nothing is granted to a worker that is
        paused, nor while the queue of its `variant` is; nor a job of another variant, or one that needs more than
        `budget_gb`, through whichever queue its message came. After an error whose outcome is unknown, the same `token`
        gives the same attempt.

        turn: as `next` has found the job.
        """
        who = worker, worker_name, variant
        try:
            return self._claim(job_id, *who, token or secrets.token_hex(16), budget_gb, turn)
        except redis.ResponseError as error:
            if is_outage(error):
                raise
            tell_once(f"job {job_id}: left alone, for a key of it is damaged: {error}")
            return Refusal.UNREADABLE

    def _claim(
        self,
        job_id: str,
        worker: str,
        worker_name: str,
        variant: str,
        token: str,
        budget_gb: float,
        turn: Turn | None,
    ) -> Claim | Refusal:
        for number in range(MOST_RACES):
            try:
                is_read = turn is not None and turn.spec is not None and number == 0
                state, spec = turn.read() if turn and is_read else self.read_with_spec(job_id)
            except UnreadableJob as error:
                log.warning("job %s: left alone: %s", job_id, error)
                return Refusal.UNREADABLE
            if not _serves(spec, job_id, variant, budget_gb):
                return Refusal.ELSEWHERE
            claimed = events.Claimed(attempt=state.attempt + 1, worker=worker, worker_name=worker_name)
            cancelled = events.Cancelled()
            after = apply(state, claimed)
            named: Named = {
                "line": turn.line if turn else self._names.job(job_id),
                "attempt": after.attempt,
                "token": token,
                "seq": after.seq,
                "lease_ms": self._lease,
                **_written("claimed", claimed, after),
                **_written("cancelled", cancelled, apply(state, cancelled)),
                "ttl": RESULT_TTL,
                "preview_ttl": PREVIEW_TTL,
                "paused": self._names.paused(),
                "worker_field": worker_field(worker),
                "queue_field": queue_field(variant),
                "entry": turn.entry if turn else "",
                "shown": TOKEN_SHOWN,
                "remembered": TOKENS_REMEMBERED,
                "claimable": sorted(sources_of(Status.RUNNING)),
            }
            answer = self._run("claim", job_id, named)
            if answer == "claimed":
                return Claim(job_id, after.attempt, token, after, spec=spec)
            if answer == "mine":  # by an earlier call, whose answer was lost: what that has written counts
                state, spec = self.read_with_spec(job_id)
                return Claim(job_id, state.attempt, token, state, spec=spec)
            if answer != "raced":
                return Refusal(answer)
        log.warning("job %s: left alone: what its state says and what it counts do not go together", job_id)
        return Refusal.UNREADABLE

    def job(self, attempt: Claim) -> Job:
        """What the attempt, which a claim has made, is to render. Raises UnreadableJob."""
        return parse_job(attempt.spec or b"", attempt.job_id)

    def links(self, job_id: str) -> Links:
        """What the job has to do with others."""
        key = self._names.job(job_id)
        links: Any = read_or(None, key, lambda: self._client.hget(key, "links"))
        return parse_links(links)

    def renew(self, attempt: Claim) -> Verdict:
        """Keeps the lease, or takes it back if it lapsed while nobody else claimed the job. Tells of a pause, too."""
        return Verdict(self._run("renew", attempt.job_id, {**_who(attempt), "lease_ms": self._lease}))

    def emit(self, attempt: Claim, event: Event, preview: bytes = b"") -> Verdict:
        """Writes one event: into the job's stream, its channel and its snapshot, under the next number.

        After an error whose outcome is unknown the same event may be sent again, and is written once.
        """
        return self.emit_all(attempt, [(event, preview)])

    def emit_all(self, attempt: Claim, news: Sequence[tuple[Event, bytes]]) -> Verdict:
        """The same of events and previews that follow each other, in one round trip: the disk is waited for once.

        After an error whose outcome is unknown, the same ones may be sent again.
        """
        unsure = tuple(event for event, _ in news)
        if unsure != attempt.unsure:
            self._settle(attempt)

        def write() -> Verdict:
            attempt.unsure = unsure
            after = attempt.snapshot
            calls: list[Named] = []
            for event, preview in news:
                after = apply(after, event)
                step = event.step if isinstance(event, events.Stepped) else 0
                calls.append({**_who(attempt), "seq": after.seq, **_event(event, after), "step": step, "jpeg": preview})
            verdict = Verdict(self._run_all("emit", attempt.job_id, calls)[-1])
            attempt.snapshot, attempt.unsure = after, ()
            return verdict

        return self._after_what_is_there(attempt, write)

    def commit(self, attempt: Claim, event: events.Done | events.Failed | events.Cancelled) -> Verdict:
        """Ends the job. CANCEL: a cancel was accepted before, so a result is refused and nothing was written."""
        self._settle(attempt)

        def write() -> Verdict:
            after = apply(attempt.snapshot, event)
            result = event.result if isinstance(event, events.Done) else None
            named: Named = {**_who(attempt), "seq": after.seq, "status": after.status, **_event(event, after)}
            named |= {"ttl": RESULT_TTL, "preview_ttl": PREVIEW_TTL, "files": _files(result) if result else ""}
            answer = self._run("commit", attempt.job_id, named)
            if answer == "cancel":
                return Verdict.CANCEL
            attempt.snapshot = after
            return Verdict.GO_ON

        return self._after_what_is_there(attempt, write)

    def is_result(self, attempt: Claim) -> bool:
        """Whether the job is done, by this attempt."""
        held: Any = self._client.hmget(self._names.state(attempt.job_id), "status", "token")
        return bool(held == [Status.DONE.encode(), attempt.token.encode()])

    def save(self, attempt: Claim, resume_point: bytes) -> None:
        """Keeps what the next attempt needs to go on from here. The newest wins; the job's end removes it."""
        self._run("save", attempt.job_id, {**_who(attempt), "resume_point": resume_point})

    def saved(self, job_id: str) -> bytes | None:
        """The newest resume point, as it lies there."""
        data: Any = self._client.get(self._names.latents(job_id))
        return None if data is None else bytes(data)

    def release(
        self, attempt: Claim, reason: str, strike: Strike | None = None, *, by: str = "", verdict: str = ""
    ) -> Status:
        """Gives the job back to the queue; the caller sees to it that a message brings it to a worker again.

        With a `strike`, a job that has had its limit of them with no step gained in between is failed instead, with
        `verdict` as its error, or else `reason`. Of those that Strike.NOT_FINITE has by the same `by`, one is counted;
        what was saved of the job goes, for values may have been wrong before they were NaN. A job whose cancel was
        asked is ended as cancelled. Returns what became of it.
        """
        self._settle(attempt)

        def write() -> Status:
            job = _parsed(attempt.spec, attempt.job_id)
            given_back = self._give_back(attempt.job_id, job, attempt.snapshot, reason, strike, by, verdict)
            return Status(self._run("release", attempt.job_id, {**_who(attempt), **given_back}))

        return self._after_what_is_there(attempt, write)

    def requeue(self, job_id: str, snapshot: Snapshot, job: Job | None = None) -> Status | None:
        """In place of an owner that is gone: puts a running job without a lease back into the queue, or fails it at
        the limit of lapsed leases; ends a job without an owner whose cancel was asked.

        `snapshot` is the job's state as it was read, and `job` its record. Returns what became of it; None when it was
        left as it is, since it has a live owner, has changed since, or needs nothing. Of any number that try at once,
        one does it.
        """
        reason = f"worker {snapshot.worker_name} stopped answering"
        given_back = self._give_back(job_id, job, snapshot, reason, Strike.LAPSE)
        answer = self._run("requeue", job_id, {"attempt": snapshot.attempt, **given_back})
        return None if answer == "left" else Status(answer)

    def _give_back(
        self,
        job_id: str,
        job: Job | None,
        snapshot: Snapshot,
        reason: str,
        strike: Strike | None,
        by: str = "",
        verdict: str = "",
    ) -> Named:
        """For the scripts that give a job back. A job whose record cannot be read waits in nobody's line."""
        released, failed, cancelled = (
            events.Released(reason=reason),
            events.Failed(error=verdict or reason),
            events.Cancelled(),
        )
        line, turns = line_keys(self._names, job, GIVEN_BACK) if job else [self._names.job(job_id)] * 2
        return {
            "line": line,
            "turns": turns,
            "seq": snapshot.seq + 1,
            **_written("released", released, apply(snapshot, released)),
            **_written("failed", failed, apply(snapshot, failed)),
            **_written("cancelled", cancelled, apply(snapshot, cancelled)),
            "strike": strike or "",
            "limit": POISON_LIMITS[strike] if strike else 0,
            "ttl": RESULT_TTL,
            "preview_ttl": PREVIEW_TTL,
            "machine": by,
            "turn": turn_of(job, GIVEN_BACK) if job else "",
            "entry": line_entry(job) if job else "",
        }

    def ownership(self, ids: Iterable[str]) -> dict[str, Ownership]:
        """What tells whose the files of these jobs are; of those that this farm knows, and has begun."""
        return read_ownership(self._client, self._names, ids)

    def refresh(self, attempt: Claim) -> None:
        """Reads what this attempt has written: after a restart, or when an answer was lost. Writes nothing."""
        held: Any = self._client.hmget(self._names.state(attempt.job_id), "attempt", "token", "snapshot")
        if held[:2] == [str(attempt.number).encode(), attempt.token.encode()]:
            attempt.snapshot = parse_snapshot(held[2])
        attempt.unsure = ()

    def _settle(self, attempt: Claim) -> None:
        if attempt.unsure:
            self.refresh(attempt)

    def _after_what_is_there(self, attempt: Claim, write: Callable[[], T]) -> T:
        """What `write` gives. A server that came back without its last writes gets it after those that it has."""
        try:
            return write()
        except _ServerIsBehind:
            written = attempt.snapshot.seq
            self.refresh(attempt)
            lost = written - attempt.snapshot.seq
            log.warning("job %s: the broker has lost the last %d events", attempt.job_id, lost)
        try:
            return write()
        except _ServerIsBehind as error:
            raise StaleAttempt(f"{error}, though nobody is seen to have written another one") from None

    def read(self, job_id: str) -> Snapshot:
        """The job's state as it is now. Raises UnreadableJob."""
        return parse_snapshot(self._client.hget(self._names.state(job_id), "snapshot"))

    def read_with_spec(self, job_id: str) -> tuple[Snapshot, bytes | None]:
        """The same, and the job's record, as it lies there."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.hget(self._names.state(job_id), "snapshot")
            pipeline.hget(self._names.job(job_id), "spec")
            snapshot, spec = pipeline.execute()
        return parse_snapshot(snapshot), spec

    def _run(self, script: str, job_id: str, named: Named) -> str:
        return self._answer(script, self._scripts[script](**self._with_keys(script, job_id, named)), named)

    def _run_all(self, script: str, job_id: str, calls: list[Named]) -> list[str]:
        """The answers to several calls of a script, sent together."""
        if len(calls) == 1:
            return [self._run(script, job_id, calls[0])]
        registered = self._scripts[script]
        for _ in range(2):
            with self._client.pipeline(transaction=False) as pipeline:
                for named in calls:
                    keys, args = registered.script.arrange(self._with_keys(script, job_id, named))
                    pipeline.evalsha(registered.sha, len(keys), *keys, *args)
                replies = pipeline.execute(raise_on_error=False)
            errors = [reply for reply in replies if isinstance(reply, Exception)]
            if not errors:
                break
            if not isinstance(errors[0], redis.exceptions.NoScriptError):
                raise errors[0]
            self._client.script_load(registered.script.text)
        return [self._answer(script, reply, named) for reply, named in zip(replies, calls, strict=True)]

    def _with_keys(self, script: str, job_id: str, named: Named) -> Named:
        """Add the script's keys that are the job's own."""
        keys = [key for key in self._scripts[script].script.keys if key not in named]
        return {**{key: getattr(self._names, key)(job_id) for key in keys}, **named}

    def _answer(self, script: str, reply: Any, named: Named) -> str:
        answer = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
        if answer == "stale":
            raise StaleAttempt(f"{script}: attempt {named['attempt']!r} is no longer the current one")
        if answer == "gap":
            raise _ServerIsBehind(f"{script}: event {named['seq']!r} does not follow the last one")
        return answer


def _serves(spec: bytes | None, job_id: str, variant: str, budget_gb: float) -> bool:
    """Whether a worker of this variant and memory is one for the job; one that cannot be read, any worker ends."""
    job = _parsed(spec, job_id)
    return job is None or (variant in ("", job.variant) and memory_class(job.predicted_peak) <= budget_gb)


def _parsed(spec: bytes | None, job_id: str) -> Job | None:
    """The job in a record, if it can be read."""
    try:
        return parse_job(spec or b"", job_id)
    except UnreadableJob:
        return None


def _files(result: Result) -> str:
    return json.dumps({**result.model_dump(), "link": result.link})


def _who(attempt: Claim) -> Named:
    return {"attempt": attempt.number, "token": attempt.token}


def _event(event: Event, after: Snapshot) -> Named:
    return {"event": event.model_dump_json(), "snapshot": after.model_dump_json()}


def _written(name: str, event: Event, after: Snapshot) -> Named:
    """Return the same under the names that a script has for one of several events."""
    return {name: event.model_dump_json(), f"{name}_snapshot": after.model_dump_json()}
