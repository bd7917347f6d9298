"""Claims the job whose turn it is when a message comes, which need not be the one that the message names."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from typing import NamedTuple

from ltx_client.protocol.fair_turns import DEFAULT_PRIORITY, line_class, parse_entry
from ltx_client.protocol.jobs import UnreadableJob, parse_job, parse_relations
from ltx_client.protocol.names import queue_name
from ltx_client.protocol.state import Status
from ltx_client.protocol.versions.features import highest_level
from ltx_client.protocol.workers import fits_gpu
from ltx_worker.ledger.ledger import Claim, Ledger, Refusal
from ltx_worker.ledger.selection import Turn
from ltx_worker.machine.health import Fitness, Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.queue.fair_turns import SendRender
from ltx_worker.threads.retrying import until_redis_answers

__all__ = ["TurnTaker"]

log = logging.getLogger(__name__)

REST = 10.0
"""So many times as long as the search for a turn took, where there was none, no other is begun: thousands of jobs may
be kept from this worker, and the broker looks through them all.
"""
LONGEST_REST = 2.0
"""Seconds."""
MOST_TOLD = 10_000
"""Jobs of newer versions that are remembered as told of."""


class _Worker(NamedTuple):
    """As the ledger names it."""

    id: str
    name: str
    variant: str


class _Message(NamedTuple):
    """A job that this version cannot read, as far as a message needs it."""

    id: str
    queue: str


class TurnTaker:
    """Claim jobs for one worker, in fair turns.

    Methods wait for the broker while it is away; once `leaving` is set, they raise redis.RedisError.

    Attributes:
        budget_gb: The gigabytes that renders may use.
        gpu_gb: The gigabytes that the GPU may use, if fewer.
        send: Puts a message for a job into its queue.
    """

    def __init__(
        self,
        ledger: Ledger,
        heartbeat: Heartbeat,
        health: Health,
        send: SendRender,
        leaving: threading.Event,
        *,
        budget_gb: float,
        gpu_gb: float | None = None,
    ) -> None:
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._health = health
        self._send = send
        self._leaving = leaving
        self._patiently = until_redis_answers(leaving)
        self._budget_gb = budget_gb
        self._gpu_gb = gpu_gb
        self._told: set[str] = set()

    def take(self, job_id: str, queue: str = "") -> Claim | None:
        """Claim the job whose turn it is, after a message for a job came from a queue; return None if there is none.

        If the message's own job only has to be ended as cancelled, claim that one.
        """
        if self._health.fitness is not Fitness.FIT:
            log.info("job %s: its message came to a worker that takes none; another one is sent", job_id)
            return None
        began = time.monotonic()
        worker = _Worker(self._heartbeat.worker_id, self._heartbeat.worker_name, self._heartbeat.variant)
        leave = self._patiently(self._health.left_to_others)
        while turn := self._patiently(
            self._ledger.next, *worker, self._budget_gb, cancelled=job_id, leave=leave.copy()
        ):
            answer = self._claim(turn, worker) if isinstance(turn, Turn) else Refusal.PAUSED
            if isinstance(answer, Claim):
                log.info("job %s: attempt %d begins", answer.job_id, answer.number)
                self._replace_message(answer, job_id, queue)
                return answer
            if answer is Refusal.PAUSED:
                self._health.set_user_pause("it was paused, or its queue")  # the next heartbeat knows more
                return None
            assert isinstance(turn, Turn)
            if not turn.entry or (answer is Refusal.CANCELLED and turn.job_id == job_id):
                return None  # a turn without an entry, for the message's own job, would come again at once
            leave.add(turn.job_id)
        log.info("job %s: its message is done with: no job waits for a turn here", job_id)
        self._leaving.wait(min(LONGEST_REST, REST * (time.monotonic() - began)))
        return None

    def _claim(self, turn: Turn, worker: _Worker) -> Claim | Refusal:
        if parse_relations(turn.relations).excludes(worker.id, worker.name):
            return Refusal.ELSEWHERE  # as of a client that does not say so in a way that the turn's script sees
        if not self._fits(turn):
            return Refusal.ELSEWHERE  # and it waits where it does, for a worker with more
        token = secrets.token_hex(16)
        answer = self._patiently(self._ledger.claim, turn.job_id, *worker, token, budget_gb=self._budget_gb, turn=turn)
        if isinstance(answer, Refusal):
            log.info("job %s: not claimed: %s", turn.job_id, answer)
            if answer is Refusal.NEWER:
                self._put_back(turn, worker.variant)
            if turn.entry and answer in (Refusal.UNREADABLE, Refusal.ELSEWHERE):
                self._patiently(self._ledger.drop, turn)  # the reaper puts it where it belongs
        return answer

    def _put_back(self, turn: Turn, variant: str) -> None:
        """Put a job of a newer version where newer workers alone look for it, and its message too.

        It waits a level above those that this version reads. So no worker of this version comes upon it again.
        """
        if turn.job_id not in self._told:
            self._told = {*self._told, turn.job_id} if len(self._told) < MOST_TOLD else {turn.job_id}
            log.warning("job %s: left to newer workers, without a strike: %s", turn.job_id, _why_newer(turn))
        if not turn.entry:  # its message came for its cancel
            return
        memory_gb, _, _ = parse_entry(turn.entry)
        level = highest_level() + 1
        entry = f"{line_class(memory_gb, level)}:{turn.job_id}"
        if not self._patiently(self._ledger.replace, turn, entry):
            return
        try:
            self._send(_Message(turn.job_id, queue_name(variant, memory_gb, level)), DEFAULT_PRIORITY)
        except Exception:  # the reaper of a newer worker counts the messages
            log.exception("job %s: its message could not be put back", turn.job_id)

    def _fits(self, turn: Turn) -> bool:
        if self._gpu_gb is None:
            return True
        with contextlib.suppress(UnreadableJob):  # which the claim ends
            return fits_gpu(parse_job(turn.spec or b"", turn.job_id), self._gpu_gb)
        return True

    def _replace_message(self, attempt: Claim, job_id: str, queue: str) -> None:
        """Send another message if one for a memory class led to a job of another class, while its own job waits.

        Workers that serve that class alone must not wait for it.
        """
        try:
            if not queue or self._ledger.job(attempt).queue == queue:
                return
            state, spec = self._patiently(self._ledger.read_with_spec, job_id)
            if state.status is Status.QUEUED and spec is not None:
                job = parse_job(spec, job_id)
                self._send(job, job.priority)
        except UnreadableJob as error:
            log.info("job %s: no other message is sent for it: %s", job_id, error)
        except Exception:  # the attempt has begun, and the reaper counts the messages
            log.exception("job %s: its message could not be replaced", job_id)


def _why_newer(turn: Turn) -> str:
    try:
        turn.read()
        parse_job(turn.spec or b"", turn.job_id)
    except UnreadableJob as error:
        return str(error)
    return "it has changed since"
