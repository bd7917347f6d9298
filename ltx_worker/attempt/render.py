"""Renders a job, from its claim to where the next may begin. Nothing here knows Celery."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator
from pathlib import Path

import redis

from ltx_client.protocol import events
from ltx_client.protocol.file_names import VIDEO
from ltx_client.protocol.jobs import Job, UnreadableJob, job_digest
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.storage.store import StorageError
from ltx_models.errors import InvalidRequest, MachineFault
from ltx_models.families.variants import find_variant
from ltx_models.machine_faults import machine_fault
from ltx_models.memory import GB, predict_peak
from ltx_models.request import GenerationRequest
from ltx_worker.attempt.attempt import Attempt, Rendering, WorkerContext
from ltx_worker.attempt.event_publisher import EventPublisher
from ltx_worker.attempt.finish import Finisher
from ltx_worker.attempt.inputs import fetch_inputs
from ltx_worker.attempt.lease import Leases
from ltx_worker.attempt.outcomes import Outcome, Outcomes
from ltx_worker.attempt.resume_saver import ResumeSaver
from ltx_worker.attempt.states import State
from ltx_worker.attempt.work_folders import WorkFolders
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Message, Ready, Render
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache
from ltx_worker.machine.keep_awake import awake
from ltx_worker.queue.claiming import TurnTaker
from ltx_worker.settings import WorkerSettings
from ltx_worker.threads.retrying import until_redis_answers
from ltx_worker.threads.watched import STORAGE_LIMIT, THREADS, brief

__all__ = ["Renderer"]

log = logging.getLogger(__name__)


class Renderer:
    """Render jobs one at a time on one engine, while `finisher` writes and delivers the last one.

    A job whose earlier attempts have failed has the engine to itself, so that the cause of a death is known.

    Attributes:
        work: The folders for what renders need meanwhile.
        are_more_waiting: Returns whether this worker's queues have jobs, as far as is known.
        find_fault: Returns at once what keeps this machine from taking a job, or None.
    """

    def __init__(
        self,
        context: WorkerContext,
        outcomes: Outcomes,
        finisher: Finisher,
        *,
        settings: WorkerSettings,
        leases: Leases,
        turns: TurnTaker,
        work: WorkFolders,
        embeddings: EmbeddingsCache | None = None,
        are_more_waiting: Callable[[], bool],
        find_fault: Callable[[], MachineFault | None] = lambda: None,
    ) -> None:
        self._context = context
        self._outcomes = outcomes
        self._finisher = finisher
        self._settings = settings
        self._leases = leases
        self._turns = turns
        self._work = work
        self._embeddings = embeddings
        self._are_more_waiting = are_more_waiting
        self._find_fault = find_fault

    def leave(self) -> None:
        """Have the render in hand, if any, stop at once and give its job back."""
        self._context.leaving.set()

    def run(self, job_id: str, queue: str = "") -> Outcome:
        """Render the job whose turn it is, if there is one, after a message for a job came from a queue.

        Wait for the broker as long as it is away.
        """
        with THREADS.at_work("render", STORAGE_LIMIT):
            try:
                if found := self._find_fault():
                    return self._leave_to_others(job_id, found)
                claim = self._turns.take(job_id, queue)
                if claim is None:
                    return Outcome.REFUSED
                return self._outcomes.see_through(self._context.begin(claim), self._render)
            except redis.RedisError as error:
                THREADS.note(error)
                log.warning("job %s: left for another time: %s", job_id, brief(error))
                return Outcome.RELEASED if is_outage(error) else Outcome.REFUSED
            except OSError as error:  # before an attempt began
                if (fault := machine_fault(error)) is None:
                    raise
                THREADS.note(error)
                return self._leave_to_others(job_id, fault)

    def _leave_to_others(self, job_id: str, fault: MachineFault) -> Outcome:
        log.warning("job %s: left to others, for this machine's fault: %s", job_id, fault)
        self._context.health.note_fault(fault)
        return Outcome.RELEASED

    def _render(self, attempt: Attempt) -> Outcome:
        attempt.hold(self._leases.keep(attempt.keeper))
        attempt.hold(self._context.heartbeat.busy(attempt.job_id))
        attempt.hold(awake())
        try:
            job = attempt.job
        except UnreadableJob as error:
            name = self._settings.worker_name
            return self._outcomes.fail(attempt, f"worker {name} cannot read the job: {error}")
        if too_large := self._why_too_large(job):
            return self._outcomes.fail(attempt, too_large)
        if attempt.number == 1:  # later ones wait for the render in hand anyway
            self._encode_ahead(job.request)
        attempt.to(State.FETCHING)
        folder = attempt.hold(self._work.of(attempt.name))
        try:
            request = self._fetch(job.request, folder)
        except (StorageError, InvalidRequest) as error:
            return self._outcomes.refuse(attempt, str(error))
        resume = self._find_resume_point(attempt) if attempt.number > 1 else None
        limit = min(job.time_limit or math.inf, self._settings.worker_time_limit)
        give_up_at = time.monotonic() + limit
        if attempt.number > 1:
            self._finisher.wait()
        make = self._command(job, request, folder / VIDEO.local, resume)
        stream = self._context.engine.render(make, attempt.asked_to_stop, limit)
        attempt.begin(self._rendering(attempt, stream, folder / VIDEO.local, give_up_at))
        if (outcome := self._outcomes.render(attempt, self._is_to_be_handed_on)) is not None:
            return outcome
        return self._hand_on(attempt)

    def _fetch(self, request: GenerationRequest, folder: Path) -> GenerationRequest:
        retry_for, leaving = self._settings.worker_deliver_for, self._context.leaving
        return fetch_inputs(request, self._context.storage, folder, retry_for=retry_for, leaving=leaving)

    def _find_resume_point(self, attempt: Attempt) -> bytes | None:
        """Return what an earlier attempt has saved; where there is nothing, tell the job's watchers."""
        context, lost = self._context, list[str]()
        resume = until_redis_answers(context.leaving)(context.points.load, attempt.job_id, lost.append)
        if resume is None:
            resumed = events.Resumed(step=0, reason=next(iter(lost), None))
            until_redis_answers(context.leaving)(context.ledger.emit, attempt.claim, resumed)
        return resume

    def _command(
        self, job: Job, request: GenerationRequest, output: Path, resume: bytes | None
    ) -> Callable[[Ready], Render]:
        """Return what makes the command for an engine that is ready."""
        digest = job_digest(job)
        return lambda ready: Render(
            request=request,
            checkpoint_every=job.checkpoint_every,
            output=output,
            job=digest,
            resume=resume,
            embeddings=self._known_embeddings(ready, request),
            save_every=self._settings.worker_save_every,
        )

    def _rendering(
        self, attempt: Attempt, stream: Generator[Message, None, None], output: Path, give_up_at: float
    ) -> Rendering:
        context = self._context
        return Rendering(
            engine=context.engine,
            stream=stream,
            embeddings=self._embeddings,
            publisher=attempt.hold(EventPublisher(context.ledger, attempt.keeper, context.leaving)),
            saver=attempt.hold(ResumeSaver(context.points, attempt.claim, context.health.note_fault)),
            output=output,
            give_up_at=give_up_at,
        )

    def _hand_on(self, attempt: Attempt) -> Outcome:
        """Give it to the finisher with all that it holds. A later attempt than the first is waited for."""
        attempt.held = attempt.held.pop_all()
        self._finisher.take(attempt)
        if attempt.number > 1:
            self._finisher.wait()
        return Outcome.HANDED_ON

    def _why_too_large(self, job: Job) -> str:
        """Return what is wrong with a job that needs more memory than its record says and this worker may use.

        The record led it here, and it would exhaust one machine after the other.
        """
        needed = predict_peak(find_variant(job.variant), job.request)
        budget = self._settings.worker_memory_gb * GB
        if needed <= max(budget, job.predicted_peak):
            return ""
        return (
            f"its record says that it needs {job.predicted_peak / GB:.1f} GB of memory, but it needs"
            f" {needed / GB:.1f} GB; submit it again, so that a worker with more memory is found"
        )

    def _is_to_be_handed_on(self, message: Message) -> bool:
        """Return whether the GPU may be handed over and another job waits already, so that it is claimed meanwhile.

        An idle worker may begin a job that comes later sooner than this one.
        """
        return isinstance(message, messages.HandOver) and self._are_more_waiting()

    def _known_embeddings(self, ready: Ready, request: GenerationRequest) -> dict[str, bytes]:
        return {} if self._embeddings is None else self._embeddings.find(ready.embeds_by, request.texts)

    def _encode_ahead(self, request: GenerationRequest) -> None:
        """Have the engine encode, concurrently with the render in hand, what this one needs and nobody has encoded."""
        ready = self._context.engine.ready
        if ready is None or not self._context.engine.is_rendering:
            return
        known = self._known_embeddings(ready, request)
        if missing := [text for text in request.texts if text not in known]:
            self._context.engine.encode_ahead(missing)
