"""An attempt at a job on this worker: one object from its claim to its end, whichever step and thread it is in."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ltx_client.protocol import events
from ltx_client.protocol.events import CutTexts
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.state import Snapshot, Status
from ltx_client.shared.storage.store import Storage
from ltx_worker.attempt.event_publisher import EventPublisher
from ltx_worker.attempt.lease import LeaseKeeper
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.resume_saver import ResumeSaver
from ltx_worker.attempt.states import ENDS, TRANSITIONS, ForbiddenTransition, State
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Decoded, Message, Ready, Written
from ltx_worker.engine.supervisor import Engine, EngineDied
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache
from ltx_worker.ledger.ledger import Claim, Ledger, StaleAttempt, Strike, Verdict
from ltx_worker.machine.health import Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.threads.watched import THREADS

__all__ = ["Attempt", "AttemptObserver", "Rendering", "Video", "WorkerContext"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class AttemptObserver:
    """Is told of attempts, in the threads that they are in. What it raises is logged, and ends no attempt."""

    def claimed(self, attempt: Attempt) -> None:
        """Note that an attempt begins."""

    def moved(self, attempt: Attempt, before: State) -> None:
        """Note that an attempt has come from that state to the one that it is in; its ends are told of, too."""

    def progressed(self, attempt: Attempt, message: Message) -> None:
        """Note what the engine says of an attempt; `Written` comes last, and may come after its end."""

    def engine_died(self, attempt: Attempt, error: EngineDied) -> None:
        """Note that the engine died while it rendered for this attempt."""

    def ended(self, attempt: Attempt) -> None:
        """Note that an attempt is over, as its state says; it is told once, of each end but LOST."""

    def lost(self, attempt: Attempt) -> None:
        """Note that an attempt is over since another one has taken over; it is told once."""


@dataclass(frozen=True)
class Video:
    """Of decoded frames: how they were made, and the MP4 that is being written."""

    decoded: Decoded
    ready: Ready
    written: Future[Written]


@dataclass(kw_only=True)
class Rendering:
    """What an attempt has from its render's begin on.

    Attributes:
        stream: The engine's messages.
        output: Where its MP4 is written.
        give_up_at: When its time limit is reached (monotonic seconds).
        video: What there is once the frames are decoded.
        cut: Texts that are longer than what is read of them.
    """

    engine: Engine
    stream: Generator[Message, None, None]
    embeddings: EmbeddingsCache | None
    publisher: EventPublisher
    saver: ResumeSaver
    output: Path
    give_up_at: float
    video: Video | None = None
    cut: CutTexts = ()

    def settle(self) -> None:
        """Return when all that happened so far is in the ledger, or will not be."""
        self.saver.finish()
        self.publisher.finish()


class Attempt:
    """A claim that this worker sees to its end. Each step takes it, and brings it to a state that the table allows.

    Attributes:
        claim: What the ledger has granted.
        state: What it is at, or how it has ended.
        keeper: What is known of its lease, and of what was asked of it.
        held: What is to be closed when the worker is done with it.
    """

    def __init__(
        self,
        claim: Claim,
        ledger: Ledger,
        *,
        leaving: threading.Event | None = None,
        observers: Sequence[AttemptObserver] = (),
        state: State = State.CLAIMED,
    ) -> None:
        """Begin with a claim, or with what lies in the spool. leaving: set when the worker ends."""
        self.claim = claim
        self.state = state
        self.keeper = LeaseKeeper(claim)
        self.held = contextlib.ExitStack()
        self._ledger = ledger
        self._leaving = leaving or threading.Event()
        self._observers = observers
        self._job: Job | None = None
        self._rendering: Rendering | None = None
        if state is State.CLAIMED:
            self._tell(lambda observer: observer.claimed(self))

    @property
    def job_id(self) -> str:
        """The id of its job."""
        return self.claim.job_id

    @property
    def number(self) -> int:
        """How many attempts at the job there are, with this one."""
        return self.claim.number

    @property
    def name(self) -> str:
        """What all that it owns is called by."""
        return self.claim.name

    @property
    def snapshot(self) -> Snapshot:
        """The job's state, as this attempt has written it."""
        return self.claim.snapshot

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDS

    @property
    def is_rendered(self) -> bool:
        """Whether its render has begun: its events are published concurrently."""
        return self._rendering is not None

    @property
    def job(self) -> Job:
        """What is to be rendered. Raise UnreadableJob."""
        if self._job is None:
            self._job = self._ledger.job(self.claim)
        return self._job

    @property
    def rendering(self) -> Rendering:
        """What it has from its render's begin on."""
        assert self._rendering is not None
        return self._rendering

    def hold(self, held: contextlib.AbstractContextManager[T]) -> T:
        """Enter a context that is left when the worker is done with this attempt."""
        return self.held.enter_context(held)

    def asked_to_stop(self) -> bool:
        """Return whether somebody wants the render's end."""
        THREADS.live()
        return self.keeper.is_to_stop or self._leaving.is_set()

    def to(self, state: State) -> None:
        """Bring it to its next state, and tell its observers. Raise ForbiddenTransition."""
        if (self.state, state) not in TRANSITIONS:
            raise ForbiddenTransition(self.job_id, self.state, state)
        before, self.state = self.state, state
        self._tell(lambda observer: observer.moved(self, before))
        if state is State.LOST:
            self._tell(lambda observer: observer.lost(self))
        elif state in ENDS:
            self._tell(lambda observer: observer.ended(self))

    def begin(self, rendering: Rendering) -> None:
        """Let it have what it renders with; `follow` begins the render."""
        self._rendering = rendering
        self.held.callback(rendering.stream.close)

    def follow(self, until: Callable[[Message], bool] | None = None) -> Message | None:
        """Go on with the render to the engine's last message, or to one of which `until` says so; return it.

        Raises:
            EngineDied: The engine died of this render, or of another one.
            MachineFault: The engine could not be started, or has said so.
        """
        if self.state is not State.RENDERING:
            self.to(State.RENDERING)
        message = None
        try:
            for message in self.rendering.stream:
                self._heed(message)
                if until is not None and until(message):
                    return message
        except BaseException as error:
            if isinstance(error, EngineDied):
                died = error
                self._tell(lambda observer: observer.engine_died(self, died))
            self.to(State.COMMITTING)
            raise
        self.to(State.COMMITTING if self.rendering.video is None else State.WRITING)
        return message

    def commit(self, event: events.Done | events.Failed | events.Cancelled) -> Verdict:
        """Write its end. CANCEL: a cancel was accepted before, so a result is refused and nothing was written.

        Raise StaleAttempt, and redis.RedisError.
        """
        self._begin_to_commit()
        verdict = self._ledger.commit(self.claim, event)
        if verdict is Verdict.CONTINUE:
            self.to(State(event.type))
        return verdict

    def release(self, reason: str, strike: Strike | None = None, *, by: str = "", verdict: str = "") -> Status:
        """Give its job back, as `Ledger.release` does, and return the state that follows.

        Raises:
            StaleAttempt: Another attempt has the job.
            redis.RedisError: The broker did not answer.
        """
        self._begin_to_commit()
        status = self._ledger.release(self.claim, reason, strike, by=by, verdict=verdict)
        self.to(State.REQUEUED if status is Status.QUEUED else State(status))
        return status

    def lose(self) -> None:
        """Note that another attempt has taken over, where this one has not ended before."""
        if not self.is_over:
            self.to(State.LOST)

    def drop(self) -> None:
        """Leave it to its lease's end, where it has not ended before, nor waits in the spool."""
        if not self.is_over and self.state is not State.SPOOLED:
            self.to(State.DROPPED)

    def _begin_to_commit(self) -> None:
        if self.is_over:
            raise StaleAttempt(f"attempt {self.number} has ended before: {self.state}")
        self.to(State.COMMITTING)

    def _heed(self, message: Message) -> None:
        """Have what the engine says saved, published and told."""
        rendering = self.rendering
        self._tell(lambda observer: observer.progressed(self, message))
        if isinstance(message, messages.Progress) and message.resume is not None:
            rendering.saver.offer(message.resume)
        if isinstance(message, messages.TextEncoded):
            rendering.cut = message.cut
            if message.fresh and rendering.embeddings:
                rendering.embeddings.offer(self._ready().embeds_by, message.fresh)
        if event := messages.event_of(message):
            rendering.publisher.put(event, message.jpeg if isinstance(message, messages.Previewed) else b"")
        if isinstance(message, Decoded):
            rendering.video = Video(message, self._ready(), rendering.engine.video)
            rendering.video.written.add_done_callback(self._note_written)

    def _note_written(self, video: Future[Written]) -> None:
        if video.exception() is None:
            self._tell(lambda observer: observer.progressed(self, video.result()))

    def _ready(self) -> Ready:
        ready = self.rendering.engine.ready
        assert ready is not None
        return ready

    def _tell(self, tell: Callable[[AttemptObserver], object]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception:
                log.exception("job %s: an observer of its attempt failed", self.job_id)


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What the steps of every attempt on this worker use.

    Attributes:
        leaving: Set when the worker ends: renders stop, and nobody waits for a broker that is away.
        observers: Those that are told of every attempt.
    """

    ledger: Ledger
    engine: Engine
    storage: Storage
    points: ResumePoints
    health: Health
    heartbeat: Heartbeat
    leaving: threading.Event = field(default_factory=threading.Event)
    observers: Sequence[AttemptObserver] = ()

    def begin(self, claim: Claim) -> Attempt:
        """Return the attempt that begins with a claim."""
        return Attempt(claim, self.ledger, leaving=self.leaving, observers=self.observers)
