"""One job, from claim to where the next may begin. No Celery in it."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable

import redis

from ltx_client.protocol import events
from ltx_client.protocol.jobs import Job, UnreadableJob, job_digest
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.storage.store import Storage, StorageError
from ltx_models.errors import InvalidRequest, MachineFault
from ltx_models.families.variants import find_variant
from ltx_models.machine_faults import machine_fault
from ltx_models.memory import GB, predict_peak
from ltx_models.request import GenerationRequest
from ltx_worker.attempt.event_publisher import EventPublisher
from ltx_worker.attempt.finish import Finisher
from ltx_worker.attempt.inputs import fetch_inputs
from ltx_worker.attempt.lease import Leases
from ltx_worker.attempt.outcomes import Endings, Outcome
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.resume_saver import ResumeSaver
from ltx_worker.attempt.running_attempt import InHand
from ltx_worker.attempt.work_folders import WorkFolders
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Message, Ready, Render
from ltx_worker.engine.supervisor import Engine
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache
from ltx_worker.ledger.ledger import Attempt, Ledger
from ltx_worker.machine.health import Health
from ltx_worker.machine.keep_awake import awake
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.queue.claiming import TurnTaker
from ltx_worker.settings import WorkerSettings
from ltx_worker.threads.retrying import until_redis_answers
from ltx_worker.threads.watched import STORAGE_LIMIT, THREADS, brief

__all__ = ["Renderer"]

log = logging.getLogger(__name__)


class Renderer:
    """Renders jobs one at a time on one engine; `finisher` has them written and delivered, beside the next. A job whose
    earlier attempts have failed has the engine to itself, so that what it dies of is known.

    work: for what they need meanwhile.  are_more_waiting: whether there are jobs for this worker in its
    queues, as far as is known.  find_fault: what keeps this machine from taking a job, found at once.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        ledger: Ledger,
        leases: Leases,
        engine: Engine,
        storage: Storage,
        finisher: Finisher,
        endings: Endings,
        points: ResumePoints,
        embeddings: EmbeddingsCache | None,
        heartbeat: Heartbeat,
        health: Health,
        turns: TurnTaker,
        work: WorkFolders,
        are_more_waiting: Callable[[], bool],
        find_fault: Callable[[], MachineFault | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._leases = leases
        self._engine = engine
        self._storage = storage
        self._finisher = finisher
        self._endings = endings
        self._heartbeat = heartbeat
        self._health = health
        self._turns = turns
        self._work = work
        self._are_more_waiting = are_more_waiting
        self._find_fault = find_fault
        self._points = points
        self._embeddings = embeddings

    def leave(self) -> None:
        """Has the render in hand, if any, stop at once and give its job back."""
        self._endings.leaving.set()

    def run(self, job_id: str, queue: str = "") -> Outcome:
        """Renders the job whose turn it is, if there is one, now that a message for this one has come from that queue.
        Waits for the broker as long as it is away.
        """
        with THREADS.at_work("render", STORAGE_LIMIT):
            try:
                if found := self._find_fault():
                    return self._leave_to_others(job_id, found)
                attempt = self._turns.take(job_id, queue)
                if attempt is None:
                    return Outcome.REFUSED
                held = contextlib.ExitStack()
                return self._endings.see_through(attempt, held, lambda: self._render(attempt, held))
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
        self._health.note_fault(fault)
        return Outcome.RELEASED

    def _render(self, attempt: Attempt, held: contextlib.ExitStack) -> Outcome:
        keeper = held.enter_context(self._leases.keep(attempt))
        held.enter_context(self._heartbeat.busy(attempt.job_id))
        held.enter_context(awake())
        leaving = self._endings.leaving

        def should_stop() -> bool:
            THREADS.live()
            asked = keeper.cancelled.is_set() or keeper.paused.is_set()
            return asked or keeper.stale.is_set() or keeper.broken.is_set() or leaving.is_set()

        try:
            job = self._ledger.job(attempt)
        except UnreadableJob as error:
            name = self._settings.worker_name
            return self._endings.fail(attempt, f"worker {name} cannot read the job: {error}")
        if too_large := self._why_too_large(job):
            return self._endings.fail(attempt, too_large)
        if attempt.number == 1:  # later ones wait for the render in hand anyway
            self._encode_ahead(job.request)
        folder = held.enter_context(self._work.of(attempt.name))
        try:
            request = fetch_inputs(
                job.request,
                self._storage,
                folder,
                retry_for=self._settings.worker_deliver_for,
                leaving=leaving,
            )
        except (StorageError, InvalidRequest) as error:
            return self._endings.refuse(attempt, str(error))
        output = folder / "video.mp4"
        digest = job_digest(job)
        lost: list[str] = []
        resume = until_redis_answers(leaving)(self._points.load, job.id, lost.append) if attempt.number > 1 else None

        def command(ready: Ready) -> Render:
            return Render(
                request=request,
                checkpoint_every=job.checkpoint_every,
                output=output,
                job=digest,
                resume=resume,
                embeddings=self._known_embeddings(ready, request),
                save_every=self._settings.worker_save_every,
            )

        if attempt.number > 1 and resume is None:
            resumed = events.Resumed(step=0, reason=next(iter(lost), None))
            until_redis_answers(leaving)(self._ledger.emit, attempt, resumed)
        limit = min(job.time_limit or math.inf, self._settings.worker_time_limit)
        give_up_at = time.monotonic() + limit
        if attempt.number > 1:
            self._finisher.wait()
        stream = self._engine.render(command, should_stop, limit)
        hand = InHand(
            attempt,
            job,
            self._engine,
            stream,
            self._embeddings,
            keeper,
            held.enter_context(EventPublisher(self._ledger, attempt, keeper, leaving)),
            held.enter_context(ResumeSaver(self._points, attempt, self._health.note_fault)),
            output,
            give_up_at,
            should_stop,
            held,
        )
        held.callback(stream.close)
        if (outcome := self._endings.render(hand, self._is_to_be_handed_on)) is not None:
            return outcome
        hand.held = held.pop_all()
        self._finisher.take(hand)
        if attempt.number > 1:
            self._finisher.wait()
        return Outcome.HANDED_ON

    def _why_too_large(self, job: Job) -> str:
        """What is wrong with a job that needs more than its record says, and more than this worker may use: it was led
        here by that, and would fell one machine after the other.
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
        """Once only decoding is left, so that the next job is claimed meanwhile; but only where one waits already. One
        that comes later, a worker with nothing in hand may begin sooner.
        """
        return isinstance(message, messages.Stepped) and message.step == message.steps and self._are_more_waiting()

    def _known_embeddings(self, ready: Ready, request: GenerationRequest) -> dict[str, bytes]:
        return {} if self._embeddings is None else self._embeddings.find(ready.embeds_by, request.texts)

    def _encode_ahead(self, request: GenerationRequest) -> None:
        """Has the engine encode, beside the render in hand, what this one needs and nobody has encoded yet."""
        ready = self._engine.ready
        if ready is None or not self._engine.is_rendering:
            return
        known = self._known_embeddings(ready, request)
        if missing := [text for text in request.texts if text not in known]:
            self._engine.encode_ahead(missing)
