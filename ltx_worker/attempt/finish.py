"""The last part of an attempt, concurrently with the next one: decoding, the MP4, and its delivery."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
import platform
import queue
import threading
import time
from concurrent.futures import Future, wait
from importlib import metadata

from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.file_names import POSTER, SIDECAR, VIDEO
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.state import Status
from ltx_models.errors import VideoError
from ltx_models.families.variants import find_variant
from ltx_models.request import GenerationRequest
from ltx_worker.attempt.attempt import Attempt, WorkerContext
from ltx_worker.attempt.delivery import Spool
from ltx_worker.attempt.outcomes import Outcome, Outcomes
from ltx_worker.attempt.states import State
from ltx_worker.engine.messages import Decoded, Written
from ltx_worker.engine.supervisor import EngineDied
from ltx_worker.queue.fair_turns import SendRender
from ltx_worker.threads.background import Background
from ltx_worker.threads.watched import LIVE_EVERY, STORAGE_LIMIT, THREADS, acquire, brief, join

__all__ = ["Finisher"]

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two looks at whether a video is still wanted."""


class Finisher(Background):
    """Run a thread that brings one attempt after the other to its end.

    It has at most one attempt, and whoever brings the next one waits, so that a worker never has more than two.

    Attributes:
        send: Sends a message for a job that was given back; its own message was acknowledged when it was handed over.
        stop_grace: The seconds that an MP4 has to be completed when the worker leaves.
    """

    def __init__(
        self, context: WorkerContext, outcomes: Outcomes, spool: Spool, send: SendRender, *, stop_grace: float
    ) -> None:
        super().__init__("finisher", limit=STORAGE_LIMIT)
        self._context = context
        self._outcomes = outcomes
        self._spool = spool
        self._send = send
        self._stop_grace = stop_grace
        self._room = threading.Semaphore(1)
        self._attempts: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()

    def take(self, attempt: Attempt) -> None:
        """See it to its end, and close what it holds; return when those before it have ended."""
        acquire(self._room)
        self._attempts.put(attempt)

    def wait(self) -> None:
        """Return when every attempt that was taken has ended."""
        acquire(self._room)
        self._room.release()

    def stop(self) -> None:
        """Return when all is done that was taken."""
        self._attempts.put(None)
        join(self._thread)

    def _cycle(self) -> None:
        with contextlib.suppress(queue.Empty):
            attempt = self._attempts.get(timeout=LIVE_EVERY)
            if attempt is None:
                self._stopped.set()
            else:
                self._finish(attempt)

    def _finish(self, attempt: Attempt) -> None:
        try:
            outcome = self._outcomes.see_through(attempt, self._see_to)
            if outcome is Outcome.RELEASED and attempt.snapshot.status is Status.QUEUED:
                self._send(attempt.job, attempt.job.priority)
        except BaseException as error:  # noqa: BLE001 - the next one must not suffer; the lease of this one lapses
            self._note(error)
            log.error("job %s: its attempt could not be ended: %s", attempt.job_id, brief(error))
        finally:
            self._room.release()

    def _see_to(self, attempt: Attempt) -> Outcome:
        rendering = attempt.rendering
        if rendering.video is None and (outcome := self._outcomes.render(attempt)) is not None:
            return outcome
        assert rendering.video is not None
        rendering.saver.finish()
        try:
            written = self._await_video(attempt, rendering.video.written)
        except TimeoutError:
            self._leave_unfinished(attempt, rendering.video.written)
            rendering.settle()
            return self._outcomes.fail(attempt, "it took longer than its time limit")
        if written is None:
            self._leave_unfinished(attempt, rendering.video.written)
            rendering.settle()
            return self._outcomes.stop(attempt)
        self._context.health.note_success()
        return self._deliver(attempt, written)

    def _await_video(self, attempt: Attempt, video: Future[Written]) -> Written | None:
        """Return the finished MP4; None once it is not wanted, or not to be waited for.

        Raise VideoError, EngineDied, and TimeoutError at its time limit.
        """
        leave_by = math.inf
        while True:
            if wait([video], POLL).done:
                return video.result()
            THREADS.live()
            now = time.monotonic()
            if self._context.leaving.is_set():
                leave_by = min(leave_by, now + self._stop_grace)
            if not attempt.keeper.is_wanted or now > leave_by:
                return None
            if now > attempt.rendering.give_up_at:
                raise TimeoutError

    def _leave_unfinished(self, attempt: Attempt, video: Future[Written]) -> None:
        """Return when nobody writes into its folder any more, or the engine hangs."""
        with contextlib.suppress(VideoError, EngineDied, TimeoutError):
            self._context.engine.stop_writing(attempt.rendering.output)
            video.result(timeout=self._stop_grace)

    def _deliver(self, attempt: Attempt, written: Written) -> Outcome:
        """Hand the MP4 over under this attempt's own name, with a sidecar that says how it was made."""
        attempt.to(State.DELIVERING)
        rendering = attempt.rendering
        rendering.publisher.put(events.Uploading(size=written.size))
        result = Result(
            video=VIDEO.name(attempt.name),
            sidecar=SIDECAR.name(attempt.name),
            size=written.size,
            sha256=written.sha256,
            poster=POSTER.name(attempt.name) if written.poster else None,
            poster_sha256=written.poster,
        )
        files = {kind: rendering.output.with_name(kind.local) for kind in result.files}
        files[SIDECAR].write_text(json.dumps(self._sidecar(attempt, written, result), indent=2) + "\n")
        self._spool.deliver(attempt, files, result)
        return Outcome.ENDED

    def _sidecar(self, attempt: Attempt, written: Written, result: Result) -> dict[str, object]:
        """Return what the sidecar says.

        job: as it was submitted.  variant, request, scheduler: all that the video can be made again from, with every
        default filled in; its pictures and clips are named by their content.
        cut: texts of which only a part was read.  waited: seconds for which the engine had nothing to do before.
        seconds: of each stage; encode: of the MP4, after the frames were decoded, concurrently with the next render.
        """
        video, heartbeat = attempt.rendering.video, self._context.heartbeat
        assert video is not None
        decoded, ready = video.decoded, video.ready
        return {
            "job": attempt.job.model_dump(mode="json"),
            "variant": attempt.job.variant,
            "request": dataclasses.asdict(_resolved(attempt.job, decoded)),
            "scheduler": None if decoded.scheduler is None else dataclasses.asdict(decoded.scheduler),
            "cut": [text.model_dump() for text in attempt.rendering.cut],
            "attempt": attempt.number,
            "worker": {"id": heartbeat.worker_id, "name": heartbeat.worker_name},
            "video": {"file": result.video, "size": result.size, "sha256": result.sha256},
            "checkpoint_sha256": ready.checkpoint_hash,
            "device": ready.device,
            "chip": heartbeat.chip,
            "seconds": {**decoded.seconds, "encode": written.seconds},
            "waited": decoded.waited,
            "peak_memory": decoded.peak_memory,
            "versions": {"mlx": ready.mlx, **_versions()},
        }


def _resolved(job: Job, decoded: Decoded) -> GenerationRequest:
    """Return the request as the engine has rendered it, but with pictures and clips by their content, not by paths."""
    request = decoded.request or job.request.resolve(find_variant(job.variant))
    assert request.num_frames is not None
    sources = tuple(item.resolve(request.num_frames) for item in job.request.conditioning)
    return dataclasses.replace(request, conditioning=sources)


@functools.cache
def _versions() -> dict[str, str]:
    return {
        "ltx-farm": metadata.version("ltx-farm"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
