"""An attempt in hand: the engine's messages become its job's events, whichever thread goes on with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from ltx_client.protocol import events
from ltx_client.protocol.events import CutTexts, Event
from ltx_client.protocol.jobs import Job
from ltx_worker.attempt.event_publisher import EventPublisher
from ltx_worker.attempt.lease import LeaseKeeper
from ltx_worker.attempt.resume_saver import ResumeSaver
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Decoded, Message, Ready, Written
from ltx_worker.engine.supervisor import Engine
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache
from ltx_worker.ledger.ledger import Claim

__all__ = ["InHand", "Video"]


@dataclass(frozen=True)
class Video:
    """Of decoded frames: how they were made, and the MP4 that is being written."""

    decoded: Decoded
    ready: Ready
    written: Future[Written]


@dataclass
class InHand:
    """stream: the engine's messages.  output: where its MP4 is written.  give_up_at: when its time limit is reached
    (monotonic seconds).  asked_to_stop: whether somebody wants the render's end.  held: what is to be closed in the
    end.  video: once the frames are decoded.  cut: texts that are longer than what is read of them.
    """

    attempt: Claim
    job: Job
    engine: Engine
    stream: Generator[Message, None, None]
    embeddings: EmbeddingsCache | None
    keeper: LeaseKeeper
    publisher: EventPublisher
    saver: ResumeSaver
    output: Path
    give_up_at: float
    asked_to_stop: Callable[[], bool]
    held: contextlib.ExitStack
    video: Video | None = None
    cut: CutTexts = ()

    def follow(self, until: Callable[[Message], bool] | None = None) -> Message | None:
        """Goes on to the engine's last message, or to one of which `until` says so; returns it. Raises EngineDied."""
        message = None
        for message in self.stream:
            if isinstance(message, messages.Stepped) and message.resume is not None:
                self.saver.offer(message.resume)
            if isinstance(message, messages.TextEncoded):
                self.cut = message.cut
                if message.fresh and self.embeddings:
                    self.embeddings.offer(self._ready().embeds_by, message.fresh)
            if translated := _translate(message):
                self.publisher.put(*translated)
            if isinstance(message, Decoded):
                self.video = Video(message, self._ready(), self.engine.video)
            if until is not None and until(message):
                break
        return message

    def _ready(self) -> Ready:
        assert self.engine.ready is not None
        return self.engine.ready

    def settle(self) -> None:
        """Returns when all that happened so far is in the ledger, or will not be."""
        self.saver.finish()
        self.publisher.finish()


def _translate(message: Message) -> tuple[Event, bytes] | None:
    """The event that a message of the engine means for the job's watchers, and its preview frame."""
    match message:
        case messages.Loading():
            return events.Loading(fraction=message.fraction, message=message.message), b""
        case messages.Resuming():
            return events.Resumed(step=message.step, reason=message.reason), b""
        case messages.TextEncoded():
            return events.TextEncoded(cut=message.cut), b""
        case messages.Stepped():
            return events.Stepped(step=message.step, steps=message.steps, seconds=message.seconds), b""
        case messages.Previewed():
            return events.Previewed(step=message.step), message.jpeg
        case messages.Decoded():
            return events.Decoded(frames=message.frames), b""
    return None
