"""The end of one job beside the beginning of the next: its frames are decoded, its MP4 is written and delivered."""

from __future__ import annotations

import contextlib
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
from ltx_client.protocol.state import Status
from ltx_models.errors import VideoError
from ltx_worker.attempt.delivery import Spool
from ltx_worker.attempt.outcomes import Endings, Outcome
from ltx_worker.attempt.running_attempt import InHand, Video
from ltx_worker.engine.messages import Written
from ltx_worker.engine.supervisor import Engine, EngineDied
from ltx_worker.machine.health import Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.queue.fair_turns import SendRender
from ltx_worker.threads.background import Background
from ltx_worker.threads.watched import LIVE_EVERY, STORAGE_LIMIT, THREADS, acquire, brief, join

__all__ = ["Finisher"]

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two looks at whether a video is still wanted."""


class Finisher(Background):
    """A thread that sees one attempt after the other to its end. At most one is in its hand: who brings the next waits,
    so that a worker never holds more than two attempts.

    send: brings a job that was given back to a worker again; its own message is acknowledged since it was handed on.
    stop_grace: seconds that an MP4 has to be complete when the worker leaves.
    """

    def __init__(
        self,
        endings: Endings,
        engine: Engine,
        spool: Spool,
        heartbeat: Heartbeat,
        health: Health,
        send: SendRender,
        *,
        stop_grace: float,
    ) -> None:
        super().__init__("finisher", limit=STORAGE_LIMIT)
        self._endings = endings
        self._engine = engine
        self._spool = spool
        self._heartbeat = heartbeat
        self._health = health
        self._send = send
        self._stop_grace = stop_grace
        self._room = threading.Semaphore(1)
        self._hands: queue.SimpleQueue[InHand | None] = queue.SimpleQueue()

    def take(self, hand: InHand) -> None:
        """Sees it to its end, and closes what it holds. Returns when those before it have ended."""
        acquire(self._room)
        self._hands.put(hand)

    def wait(self) -> None:
        """Returns when nothing is in its hand."""
        acquire(self._room)
        self._room.release()

    def stop(self) -> None:
        """Returns when all is done that was taken."""
        self._hands.put(None)
        join(self._thread)

    def _cycle(self) -> None:
        with contextlib.suppress(queue.Empty):
            hand = self._hands.get(timeout=LIVE_EVERY)
            if hand is None:
                self._stopped.set()
            else:
                self._finish(hand)

    def _finish(self, hand: InHand) -> None:
        attempt = hand.attempt
        try:
            outcome = self._endings.see_through(attempt, hand.held, lambda: self._see_to(hand))
            if outcome is Outcome.RELEASED and attempt.snapshot.status is Status.QUEUED:
                self._send(hand.job, hand.job.priority)
        except BaseException as error:  # noqa: BLE001 - the next one must not suffer; the lease of this one lapses
            self._note(error)
            log.error("job %s: its attempt could not be ended: %s", attempt.job_id, brief(error))
        finally:
            self._room.release()

    def _see_to(self, hand: InHand) -> Outcome:
        if hand.video is None and (outcome := self._endings.render(hand)) is not None:
            return outcome
        assert hand.video is not None
        hand.saver.finish()
        try:
            written = self._await_video(hand, hand.video.written)
        except TimeoutError:
            self._leave_unfinished(hand, hand.video.written)
            hand.settle()
            return self._endings.fail(hand.attempt, "it took longer than its time limit")
        if written is None:
            self._leave_unfinished(hand, hand.video.written)
            hand.settle()
            return self._endings.stop(hand)
        self._health.note_success()
        return self._deliver(hand, hand.video, written)

    def _await_video(self, hand: InHand, video: Future[Written]) -> Written | None:
        """The finished MP4; None once it is not wanted, or not to be waited for. Raises VideoError, EngineDied, and
        TimeoutError at its time limit.
        """
        leave_by = math.inf
        while True:
            if wait([video], POLL).done:
                return video.result()
            THREADS.live()
            now = time.monotonic()
            if self._endings.leaving.is_set():
                leave_by = min(leave_by, now + self._stop_grace)
            if hand.keeper.cancelled.is_set() or hand.keeper.stale.is_set() or now > leave_by:
                return None
            if now > hand.give_up_at:
                raise TimeoutError

    def _leave_unfinished(self, hand: InHand, video: Future[Written]) -> None:
        """Nobody writes into its folder any more when this returns, or the engine hangs."""
        with contextlib.suppress(VideoError, EngineDied, TimeoutError):
            self._engine.stop_writing(hand.output)
            video.result(timeout=self._stop_grace)

    def _deliver(self, hand: InHand, video: Video, written: Written) -> Outcome:
        """Hands the MP4 over under this attempt's own name, with a sidecar that says how it was made."""
        attempt, keeper = hand.attempt, hand.keeper
        hand.publisher.put(events.Uploading(size=written.size))
        result = Result(
            video=f"{attempt.name}.mp4", sidecar=f"{attempt.name}.json", size=written.size, sha256=written.sha256
        )
        sidecar = hand.output.with_name("sidecar.json")
        sidecar.write_text(json.dumps(self._sidecar(hand, video, written, result), indent=2) + "\n")
        sure = not (keeper.cancelled.is_set() or keeper.stale.is_set())
        self._spool.deliver(attempt, hand.output, sidecar, result, hand.publisher.finish if sure else None)
        return Outcome.ENDED

    def _sidecar(self, hand: InHand, video: Video, written: Written, result: Result) -> dict[str, object]:
        """cut: texts of which only a part was read.  waited: seconds for which the engine had nothing to do before.
        seconds: of each phase; encode: of the MP4, after the frames were decoded, beside the next render.
        """
        decoded, ready = video.decoded, video.ready
        return {
            "job": hand.job.model_dump(mode="json"),
            "cut": [text.model_dump() for text in hand.cut],
            "attempt": hand.attempt.number,
            "worker": {"id": self._heartbeat.worker_id, "name": self._heartbeat.worker_name},
            "video": {"file": result.video, "size": result.size, "sha256": result.sha256},
            "checkpoint_sha256": ready.checkpoint_hash,
            "device": ready.device,
            "chip": self._heartbeat.chip,
            "seconds": {**decoded.seconds, "encode": written.seconds},
            "waited": decoded.waited,
            "peak_memory": decoded.peak_memory,
            "versions": {"mlx": ready.mlx, **_versions()},
        }


@functools.cache
def _versions() -> dict[str, str]:
    return {
        "ltx-farm": metadata.version("ltx-farm"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
