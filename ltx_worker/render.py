"""One job, from claim to commit: the engine's messages become the job's events. No Celery in it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import platform
import tempfile
import threading
from collections.abc import Callable, Generator
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import ParamSpec, TypeVar

import redis

from ltx_client.protocol import events
from ltx_client.protocol.events import Event, Result
from ltx_client.protocol.jobs import Job, UnreadableJob
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.protocol.storage import Storage, StorageError
from ltx_models.errors import InvalidRequest
from ltx_worker.delivery import Spool
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Message, Render, Written
from ltx_worker.engine.supervisor import Engine, EngineDied
from ltx_worker.heartbeat import Heartbeat
from ltx_worker.inputs import fetch_inputs
from ltx_worker.lease import LeaseKeeper
from ltx_worker.ledger import Attempt, Ledger, Refusal, StaleAttempt, Strike
from ltx_worker.patience import AWAY, until_redis_answers
from ltx_worker.publisher import EventPublisher
from ltx_worker.saver import ResumeSaver
from ltx_worker.settings import WorkerSettings

__all__ = ["Outcome", "Renderer"]

log = logging.getLogger(__name__)


P = ParamSpec("P")
T = TypeVar("T")


class Outcome(StrEnum):
    """What came of a message that said: look at this job."""

    ENDED = "ended"
    RELEASED = "released"
    LOST = "lost"
    REFUSED = "refused"


class Renderer:
    """Renders jobs one at a time on one engine."""

    def __init__(
        self,
        settings: WorkerSettings,
        client: redis.Redis,
        ledger: Ledger,
        engine: Engine,
        storage: Storage,
        spool: Spool,
        heartbeat: Heartbeat,
    ) -> None:
        self._settings = settings
        self._client = client
        self._names: Names = settings.names
        self._ledger = ledger
        self._engine = engine
        self._storage = storage
        self._spool = spool
        self._heartbeat = heartbeat
        self._leaving = threading.Event()

    def leave(self) -> None:
        """Has the render in hand, if any, stop at once and give its job back."""
        self._leaving.set()

    def run(self, job_id: str) -> Outcome:
        """Looks at a job: renders it to its end if nobody else does. Raises redis.RedisError when Redis is away."""
        attempt = self._ledger.claim(job_id, self._heartbeat.worker_id, self._settings.worker_name)
        if isinstance(attempt, Refusal):
            log.info("job %s: not claimed: %s", job_id, attempt)
            return Outcome.REFUSED
        log.info("job %s: attempt %d begins", job_id, attempt.number)
        keeper = LeaseKeeper(self._client, self._names, self._ledger, attempt, self._settings.worker_renew_every)
        try:
            with keeper, self._heartbeat.busy(job_id):
                outcome = self._render(attempt, keeper)
        except StaleAttempt as error:
            log.warning("job %s: %s; dropped", job_id, error)
            return Outcome.LOST
        except AWAY as error:  # while leaving: the lease lapses, and the reaper brings the job to another worker
            log.warning("job %s: left without the broker: %s", job_id, error)
            return Outcome.RELEASED
        log.info("job %s: attempt %d %s: %s", job_id, attempt.number, outcome, attempt.snapshot.status)
        return outcome

    def _render(self, attempt: Attempt, keeper: LeaseKeeper) -> Outcome:
        def should_stop() -> bool:
            return keeper.cancelled.is_set() or keeper.stale.is_set() or self._leaving.is_set()

        try:
            job = self._ledger.job(attempt)
        except UnreadableJob as error:
            return self._fail(attempt, f"worker {self._settings.worker_name} cannot read the job: {error}")
        with tempfile.TemporaryDirectory(dir=self._work_folder(), prefix=f"{job.id}-") as folder:
            try:
                request = fetch_inputs(
                    job.request,
                    self._storage,
                    Path(folder),
                    retry_for=self._settings.worker_deliver_for,
                    leaving=self._leaving,
                )
            except (StorageError, InvalidRequest) as error:
                return self._fail(attempt, str(error))
            command = Render(
                request=request,
                checkpoint_every=job.checkpoint_every,
                output=Path(folder) / "video.mp4",
                resume=self._ledger.saved(job.id),
                save_every=self._settings.worker_save_every,
            )
            if attempt.number > 1 and command.resume is None:
                self._ledger.emit(attempt, events.Resumed(step=0))
            limit = min(job.time_limit or math.inf, self._settings.worker_time_limit)
            try:
                last = self._follow(attempt, self._engine.render(command, should_stop, limit), keeper)
            except EngineDied as error:
                if should_stop():
                    return self._stopped(attempt, keeper)
                return self._give_back(attempt, str(error), Strike.DEATH)
            match last:
                case messages.Refused():
                    return self._fail(attempt, last.error.replace(f"the file {folder}/", "").replace(f"{folder}/", ""))
                case messages.Written():
                    return self._deliver(attempt, job, command.output, last)
                case _:
                    return self._stopped(attempt, keeper)

    def _follow(self, attempt: Attempt, stream: Generator[Message, None, None], keeper: LeaseKeeper) -> Message | None:
        """Turns the engine's messages into the job's events. Returns the last message, which is none."""
        message = None
        with (
            ResumeSaver(self._ledger, attempt) as saver,
            EventPublisher(self._ledger, attempt, keeper, self._leaving) as publisher,
            contextlib.closing(stream),
        ):
            for message in stream:
                if isinstance(message, messages.Stepped) and message.resume is not None:
                    saver.offer(message.resume)
                if translated := _translate(message):
                    publisher.put(*translated)
                if isinstance(message, Written):
                    publisher.put(events.Uploading(size=message.size))
        return message

    def _stopped(self, attempt: Attempt, keeper: LeaseKeeper) -> Outcome:
        if keeper.cancelled.is_set():
            self._patiently(self._ledger.commit, attempt, events.Cancelled())
            return Outcome.ENDED
        if keeper.stale.is_set():
            return Outcome.LOST
        return self._give_back(attempt, f"worker {self._settings.worker_name} is shutting down")

    def _give_back(self, attempt: Attempt, reason: str, strike: Strike | None = None) -> Outcome:
        log.warning("job %s: %s", attempt.job_id, reason)
        status = self._patiently(self._ledger.release, attempt, reason, strike)
        return Outcome.RELEASED if status is Status.QUEUED else Outcome.ENDED

    def _patiently(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Writes to the ledger, waiting for Redis while it is away; not any more when the worker leaves."""
        return until_redis_answers(self._leaving)(write, *args, **kwargs)

    def _fail(self, attempt: Attempt, error: str) -> Outcome:
        log.error("job %s: %s", attempt.job_id, error)
        self._patiently(self._ledger.commit, attempt, events.Failed(error=error))
        return Outcome.ENDED

    def _deliver(self, attempt: Attempt, job: Job, output: Path, written: Written) -> Outcome:
        """Hands the MP4 over under this attempt's own name, with a sidecar that says how it was made."""
        stem = f"{attempt.job_id}.{attempt.number}"
        result = Result(video=f"{stem}.mp4", sidecar=f"{stem}.json", size=written.size, sha256=written.sha256)
        sidecar = output.with_name("sidecar.json")
        sidecar.write_text(json.dumps(self._sidecar(attempt, job, written, result), indent=2) + "\n")
        self._spool.deliver(attempt, output, sidecar, result)
        return Outcome.ENDED

    def _sidecar(self, attempt: Attempt, job: Job, written: Written, result: Result) -> dict[str, object]:
        ready = self._engine.ready
        assert ready is not None
        return {
            "job": job.model_dump(mode="json"),
            "attempt": attempt.number,
            "worker": {"id": self._heartbeat.worker_id, "name": self._settings.worker_name},
            "video": {"file": result.video, "size": result.size, "sha256": result.sha256},
            "checkpoint_sha256": ready.checkpoint_hash,
            "device": ready.device,
            "chip": self._heartbeat.chip,
            "seconds": written.seconds,
            "peak_memory": written.peak_memory,
            "versions": {
                "ltx-farm": metadata.version("ltx-farm"),
                "mlx": ready.mlx,
                "python": platform.python_version(),
                "platform": platform.platform(),
            },
        }

    def _work_folder(self) -> Path:
        folder = self._settings.home / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _translate(message: Message) -> tuple[Event, bytes] | None:
    """The event that a message of the engine means for the job's watchers, and its preview frame."""
    match message:
        case messages.Loading():
            return events.Loading(fraction=message.fraction, message=message.message), b""
        case messages.Resuming():
            return events.Resumed(step=message.step, reason=message.reason), b""
        case messages.TextEncoded():
            return events.TextEncoded(), b""
        case messages.Stepped():
            return events.Stepped(step=message.step, steps=message.steps, seconds=message.seconds), b""
        case messages.Previewed():
            return events.Previewed(step=message.step), message.jpeg
        case messages.Decoded():
            return events.Decoded(frames=message.frames), b""
    return None
