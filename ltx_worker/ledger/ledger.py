"""The worker's side of the job ledger: call the scripts that decide who renders a job and what becomes of it.

Each script runs atomically in Redis. Every write after the claim carries the attempt's number and token, and is
refused when another attempt is the current one (fencing), so that at-least-once delivery has exactly one result. Each
script may be sent twice: the second time it changes nothing and gives the same answer. No script decodes or encodes
JSON; what is to be stored is passed as text.

`state:{id}` is a hash of status, attempt, token, seq and snapshot; and of tokens, the parts of all granted tokens that
file names show, the newest first (`ltx_worker.ledger.ownership`). For the poison limits it has furthest:{stage}, the
most steps of a stage that any attempt did, 0 for a stage that counts none (furthest for `denoise`, as workers before
stages write it); the number of strikes of each kind since one came further; and not_finite_by, the machines that had a
strike of that kind. If the hash is missing, the job is queued, its attempt is 0 and its seq is 0.
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
from pydantic import ValidationError

from ltx_client.protocol import events
from ltx_client.protocol.changes.messages import JobStatus
from ltx_client.protocol.events import MOST_STAGES, Event, Result, StagePlan
from ltx_client.protocol.fair_turns import GIVEN_BACK, line_entry, line_keys, turn_of
from ltx_client.protocol.file_names import TOKEN_SHOWN, attempt_name
from ltx_client.protocol.jobs import Job, NewerVersion, Relations, UnreadableJob, parse_job, parse_relations
from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import queue_field, worker_field
from ltx_client.protocol.state import RESULT_TTL, Snapshot, Status, apply, parse_snapshot, sources_of
from ltx_client.protocol.validation import first_error
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.lua.lua_script import Argument, RegisteredScript
from ltx_client.shared.unexpected_data import read_or, tell_once
from ltx_models.errors import InvalidRequest, UnknownVariant
from ltx_models.families.stages import DENOISE
from ltx_models.families.variants import find_variant
from ltx_models.memory import memory_class
from ltx_worker.ledger.ownership import Ownership, read_ownership
from ltx_worker.ledger.scripts import SCRIPTS
from ltx_worker.ledger.selection import NextTurn, Turn

__all__ = ["Claim", "Ledger", "Refusal", "StaleAttempt", "Strike", "Verdict"]

log = logging.getLogger(__name__)

T = TypeVar("T")

PREVIEW_TTL = 3600
"""Seconds after which the newest preview expires once the job has ended."""
MAX_RACES = 20
"""The most tries of one claim, each after others have changed the job meanwhile."""
Named = dict[str, Argument]
"""A script's arguments by name; those that are keys of the job are added."""


class Verdict(StrEnum):
    """A write's answer to the owner: to continue, or that somebody asked for the job's cancel or pause."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    PAUSE = "pause"


class Refusal(StrEnum):
    """Why a job was not claimed."""

    GONE = "gone"
    ENDED = "ended"
    LEASED = "leased"
    CANCELLED = "cancelled"
    JOB_PAUSED = "held"
    UNREADABLE = "its state cannot be read"
    NEWER = "of a newer version"
    """Its record or its state has what this version does not know."""
    ELSEWHERE = "for other workers"
    """The job is of another variant, or needs more memory than this worker may use."""
    PAUSED = "paused"
    """The worker or its queue is paused, not the job."""


class Strike(StrEnum):
    """A kind of early end of an attempt that may be the job's own fault."""

    DEATH = "deaths"
    """The engine died."""
    HOST_FAULT = "host_faults"
    """Memory or the GPU failed, and no probe finds a fault of the machine."""
    MISHAP = "mishaps"
    """Something else of the machine failed, and no probe finds a fault of the machine."""
    NOT_FINITE = "not_finite"
    """The render gave NaN or infinite values. The same machine is counted once."""
    LAPSE = "lapses"
    """The worker let its lease lapse."""


POISON_LIMITS = {Strike.DEATH: 2, Strike.HOST_FAULT: 4, Strike.MISHAP: 8, Strike.NOT_FINITE: 2, Strike.LAPSE: 3}
"""How many strikes of one kind, with no new progress in between, fail a job."""

TOKENS_REMEMBERED = 100 * (TOKEN_SHOWN + 1)
"""Characters of the granted tokens that are kept, those of a job's newest 100 attempts."""


class StaleAttempt(Exception):
    """Another attempt is the current one, or the job has ended: this attempt must stop and write nothing more."""


class _ServerIsBehind(Exception):
    """The server lacks the last events that this attempt wrote."""


@dataclass
class Claim:
    """A claim that was granted.

    Attributes:
        job_id: the job.
        number: the attempt's number.
        token: the attempt's token.
        snapshot: the job's state as this attempt last wrote it.
        unsure: events that may have been written since, because no answer came.
        spec: the job's record, as the claim read it.
    """

    job_id: str
    number: int
    token: str
    snapshot: Snapshot = field(repr=False)
    unsure: tuple[Event, ...] = field(default=(), repr=False)
    spec: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Return the name of everything that the attempt owns, in the storage and on this machine.

        No other attempt has the same name, not even one with the same number after the server has lost its last writes.
        """
        return attempt_name(self.job_id, self.number, self.token)


class Ledger(NextTurn):
    """The writes that a worker may make.

    Its methods raise StaleAttempt when the attempt is over, and redis.RedisError when the broker does not answer or
    refuses.

    Args:
        client: of the broker.
        names: of the farm's keys.
        lease: seconds.
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
        """Claim a job that has no owner: increase the attempt number, set a token, take the lease.

        Of any number of workers that race for a job, one gets it. A job whose cancel was asked is ended here. A job
        whose last owner let its lease lapse may be claimed again. Nothing is granted while the worker or the queue of
        its variant is paused, whichever queue the message came from.

        Args:
            job_id: the job.
            worker: the worker's id.
            worker_name: the worker's name.
            variant: the variant that it serves; "" for any. A job of another variant is refused.
            token: the attempt's token, or None for a new one. After an error whose outcome is unknown, the same token
                gives the same attempt.
            budget_gb: the memory that the worker may use. A job that needs more is refused.
            turn: the job as `next` returned it, or None.
        """
        who = worker, worker_name, variant
        try:
            return self._claim(job_id, *who, token or secrets.token_hex(16), budget_gb, turn)
        except redis.ResponseError as error:
            if is_outage(error):
                raise
            tell_once(f"job {job_id}: skipped: one of its keys is damaged: {error}")
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
        for number in range(MAX_RACES):
            try:
                is_read = turn is not None and turn.spec is not None and number == 0
                state, spec = turn.read() if turn and is_read else self.read_with_spec(job_id)
            except NewerVersion:
                return Refusal.NEWER
            except UnreadableJob as error:
                log.warning("job %s: skipped: %s", job_id, error)
                return Refusal.UNREADABLE
            job, is_newer = _parsed(spec, job_id)
            if not _serves(job, variant, budget_gb):
                return Refusal.ELSEWHERE
            if is_newer and not self._client.exists(self._names.cancel(job_id)):
                return Refusal.NEWER  # but any worker ends one whose cancel was asked
            claimed = events.Claimed(
                attempt=state.attempt + 1, worker=worker, worker_name=worker_name, stages=_stages(job)
            )
            cancelled = events.Cancelled()
            after = apply(state, claimed)
            named: Named = {
                "line": turn.line if turn else self._names.job(job_id),
                "attempt": after.attempt,
                "token": token,
                "seq": after.seq,
                "lease_ms": self._lease,
                **_written("claimed", claimed, job_id, after),
                **_written("cancelled", cancelled, job_id, apply(state, cancelled)),
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
            if answer == "mine":  # granted by an earlier call whose answer was lost: read what that call wrote
                state, spec = self.read_with_spec(job_id)
                return Claim(job_id, state.attempt, token, state, spec=spec)
            if answer != "raced":
                return Refusal(answer)
        log.warning("job %s: skipped: its snapshot and its numbers contradict each other", job_id)
        return Refusal.UNREADABLE

    def job(self, attempt: Claim) -> Job:
        """Return the job of a claimed attempt.

        Raises:
            UnreadableJob: the record is damaged or of a newer version.
        """
        return parse_job(attempt.spec or b"", attempt.job_id)

    def relations(self, job_id: str) -> Relations:
        """Return a job's relations to other jobs."""
        key = self._names.job(job_id)
        relations: Any = read_or(None, key, lambda: self._client.hget(key, "links"))
        return parse_relations(relations)

    def renew(self, attempt: Claim) -> Verdict:
        """Renew the lease, or take it again if it lapsed and nobody else has claimed the job.

        The verdict also tells of a pause.
        """
        return Verdict(self._run("renew", attempt.job_id, {**_who(attempt), "lease_ms": self._lease}))

    def emit(self, attempt: Claim, event: Event, preview: bytes = b"") -> Verdict:
        """Write one event into the job's stream, its channel and its snapshot, under the next number.

        After an error whose outcome is unknown the same event may be sent again, and is written once.
        """
        return self.emit_all(attempt, [(event, preview)])

    def emit_all(self, attempt: Claim, news: Sequence[tuple[Event, bytes]]) -> Verdict:
        """Write consecutive events, each with a preview or b"", in one round trip, which waits for the disk once.

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
                written = {"seq": after.seq, **_event(event, after), **_reached(event), "jpeg": preview}
                calls.append({**_who(attempt), **written})
            verdict = Verdict(self._run_all("emit", attempt.job_id, calls)[-1])
            attempt.snapshot, attempt.unsure = after, ()
            return verdict

        return self._after_what_is_there(attempt, write)

    def commit(self, attempt: Claim, event: events.Done | events.Failed | events.Cancelled) -> Verdict:
        """End the job; return CANCEL, with nothing written, for a result after a cancel was accepted."""
        self._settle(attempt)

        def write() -> Verdict:
            after = apply(attempt.snapshot, event)
            result = event.result if isinstance(event, events.Done) else None
            named: Named = {**_who(attempt), "seq": after.seq, "status": after.status, **_event(event, after)}
            named |= {"ttl": RESULT_TTL, "preview_ttl": PREVIEW_TTL, "files": _files(result) if result else ""}
            named["change"] = _change(attempt.job_id, after)
            answer = self._run("commit", attempt.job_id, named)
            if answer == "cancel":
                return Verdict.CANCEL
            attempt.snapshot = after
            return Verdict.CONTINUE

        return self._after_what_is_there(attempt, write)

    def is_result(self, attempt: Claim) -> bool:
        """Return whether the job is done by this attempt."""
        held: Any = self._client.hmget(self._names.state(attempt.job_id), "status", "token")
        return bool(held == [Status.DONE.encode(), attempt.token.encode()])

    def save(self, attempt: Claim, resume_point: bytes) -> None:
        """Store a resume point for the next attempt, in place of an older one; the job's end removes it."""
        self._run("save", attempt.job_id, {**_who(attempt), "resume_point": resume_point})

    def saved(self, job_id: str) -> bytes | None:
        """Return the newest resume point as stored, or None."""
        data: Any = self._client.get(self._names.latents(job_id))
        return None if data is None else bytes(data)

    def release(
        self, attempt: Claim, reason: str, strike: Strike | None = None, *, by: str = "", verdict: str = ""
    ) -> Status:
        """Give the job back to the queue, for which the caller sends a message; return the job's status then.

        A job whose cancel was asked is ended as cancelled. A job that has reached the limit of a kind of strike, with
        no new progress in between, is failed.

        Args:
            attempt: the attempt that gives it back.
            reason: why, in a sentence.
            strike: the kind of strike to count, if any. Strike.NOT_FINITE also removes the resume point, since its
                values may have been wrong before they were NaN.
            by: the machine; Strike.NOT_FINITE counts each machine once.
            verdict: the error of a job that is failed; "" for `reason`.
        """
        self._settle(attempt)

        def write() -> Status:
            job, _ = _parsed(attempt.spec, attempt.job_id)
            given_back = self._give_back(attempt.job_id, job, attempt.snapshot, reason, strike, by, verdict)
            return Status(self._run("release", attempt.job_id, {**_who(attempt), **given_back}))

        return self._after_what_is_there(attempt, write)

    def requeue(self, job_id: str, snapshot: Snapshot, job: Job | None = None) -> Status | None:
        """Give a job back in place of an owner that is gone.

        A running job without a lease is queued, or failed at the limit of lapsed leases; a job without an owner whose
        cancel was asked is ended. Of any number of concurrent calls, one has an effect.

        Args:
            job_id: the job.
            snapshot: its state, as it was read.
            job: its record, or None if it cannot be read.

        Returns:
            The job's status then; None if nothing was changed, because the job has a live owner, has changed since it
            was read, or needs nothing.
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
        """Return the arguments of the scripts that give a job back. A job whose record cannot be read gets no line."""
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
            **_written("released", released, job_id, apply(snapshot, released)),
            **_written("failed", failed, job_id, apply(snapshot, failed)),
            **_written("cancelled", cancelled, job_id, apply(snapshot, cancelled)),
            "strike": strike or "",
            "limit": POISON_LIMITS[strike] if strike else 0,
            "ttl": RESULT_TTL,
            "preview_ttl": PREVIEW_TTL,
            "machine": by,
            "turn": turn_of(job, GIVEN_BACK) if job else "",
            "entry": line_entry(job) if job else "",
        }

    def ownership(self, ids: Iterable[str]) -> dict[str, Ownership]:
        """Return the ownership of those jobs that this farm knows and has begun, by id."""
        return read_ownership(self._client, self._names, ids)

    def refresh(self, attempt: Claim) -> None:
        """Read what this attempt has written, after a restart or a lost answer."""
        held: Any = self._client.hmget(self._names.state(attempt.job_id), "attempt", "token", "snapshot")
        if held[:2] == [str(attempt.number).encode(), attempt.token.encode()]:
            attempt.snapshot = parse_snapshot(held[2])
        attempt.unsure = ()

    def _settle(self, attempt: Claim) -> None:
        if attempt.unsure:
            self.refresh(attempt)

    def _after_what_is_there(self, attempt: Claim, write: Callable[[], T]) -> T:
        """Return the result of `write`, which is repeated after the last event that a server which lost events has."""
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
            raise StaleAttempt(f"{error}, though no other write was found") from None

    def read(self, job_id: str) -> Snapshot:
        """Return the job's current state.

        Raises:
            UnreadableJob: the state is damaged or of a newer version.
        """
        return parse_snapshot(self._client.hget(self._names.state(job_id), "snapshot"))

    def read_with_spec(self, job_id: str) -> tuple[Snapshot, bytes | None]:
        """Return the job's current state, and its record as stored.

        Raises:
            UnreadableJob: the state is damaged or of a newer version.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.hget(self._names.state(job_id), "snapshot")
            pipeline.hget(self._names.job(job_id), "spec")
            snapshot, spec = pipeline.execute()
        return parse_snapshot(snapshot), spec

    def _run(self, script: str, job_id: str, named: Named) -> str:
        return self._answer(script, self._scripts[script](**self._with_keys(script, job_id, named)), named)

    def _run_all(self, script: str, job_id: str, calls: list[Named]) -> list[str]:
        """Return the answers to several calls of a script, sent together."""
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
        """Add the script's keys that are the job's own, and the channel of a script that tells of a change."""
        its = self._scripts[script].script
        keys = [key for key in its.keys if key not in named]
        channel = {"changes": self._names.changes()} if "changes" in its.args else {}
        return {**{key: getattr(self._names, key)(job_id) for key in keys}, **channel, **named}

    def _answer(self, script: str, reply: Any, named: Named) -> str:
        answer = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
        if answer == "stale":
            raise StaleAttempt(f"{script}: attempt {named['attempt']!r} is no longer the current one")
        if answer == "gap":
            raise _ServerIsBehind(f"{script}: event {named['seq']!r} does not follow the last one")
        return answer


def _serves(job: Job | None, variant: str, budget_gb: float) -> bool:
    """Return whether a worker of this variant and memory serves a job; any worker ends one that cannot be read."""
    return job is None or (variant in ("", job.variant) and memory_class(job.predicted_peak) <= budget_gb)


def _parsed(spec: bytes | None, job_id: str) -> tuple[Job | None, bool]:
    """Return the job in a record, or None if it cannot be read, and whether a newer version has written it."""
    try:
        return parse_job(spec or b"", job_id), False
    except UnreadableJob as error:
        return None, isinstance(error, NewerVersion)


def _stages(job: Job | None) -> tuple[StagePlan, ...]:
    """Return the stages of a job's render; none if it cannot be read, or its variant is unknown here or broken."""
    if job is None:
        return ()
    try:
        variant = find_variant(job.variant)
        request = job.request.resolve(variant)
    except (UnknownVariant, InvalidRequest):  # the render says why
        return ()
    try:
        stages = tuple(
            StagePlan(name=row.name, label=row.label, counts=row.counts, of=row.of(request)) for row in variant.stages
        )
        if len(stages) > MOST_STAGES:
            raise ValueError(f"{len(stages)} stages")
    except Exception as error:  # noqa: BLE001 — whatever somebody else's rows raise
        why = first_error(error) if isinstance(error, ValidationError) else type(error).__name__
        tell_once(f"the stages of variant {variant.name} are left out, since a row of its family is wrong: {why}")
        return ()
    return stages


def _reached(event: Event) -> Named:
    """Return how far an event says that a stage has come; the names are of the script that writes it.

    Of a stage that counts no steps only its begin counts: when the rest of it is told depends on the machine.
    """
    if not isinstance(event, events.StageBegan | events.Progress):
        return {"furthest": "", "done": 0}
    name = "furthest" if event.stage == DENOISE.name else f"furthest:{event.stage}"
    return {"furthest": name, "done": event.done if isinstance(event, events.Stepped) else 0}


def _files(result: Result) -> str:
    return json.dumps({**result.model_dump(), **result.links})


def _who(attempt: Claim) -> Named:
    return {"attempt": attempt.number, "token": attempt.token}


def _event(event: Event, after: Snapshot) -> Named:
    return {"event": event.model_dump_json(), "snapshot": after.model_dump_json()}


def _written(name: str, event: Event, job_id: str, after: Snapshot) -> Named:
    """Return an event, its snapshot and its change under a script's names for one of several events."""
    return {
        name: event.model_dump_json(),
        f"{name}_snapshot": after.model_dump_json(),
        f"{name}_change": _change(job_id, after),
    }


def _change(job_id: str, after: Snapshot) -> str:
    """Return what the farm's channel tells of a job's new status."""
    runs = after.status is Status.RUNNING
    return JobStatus.model_construct(
        job=job_id,
        status=str(after.status),
        seq=after.seq,
        attempt=after.attempt,
        worker=(after.worker or "") if runs else "",
        worker_name=(after.worker_name or "") if runs else "",
    ).model_dump_json()
