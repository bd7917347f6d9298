"""The child's side of the engine: what `python -m ltx_worker.engine` runs.

The process is started with `subprocess`, never forked, since Metal does not survive a fork. It keeps the model in
memory between renders. A reader thread receives commands and ends the process as soon as the worker's end of the pipe
closes, so it never outlives the worker. An error that is neither a ModelError nor a fault of the machine ends the
process too: the worker keeps its last output.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from multiprocessing.connection import Connection
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_client.protocol.events import CutText
from ltx_client.shared.settings import HomeSettings
from ltx_models import events
from ltx_models.errors import FaultKind, MachineFault, ModelError, ResumeMismatch
from ltx_models.events import PromptEmbeddings, ResumePoint
from ltx_models.machine_faults import machine_fault
from ltx_models.pipeline.base import open_pipeline
from ltx_models.request import TEXT_NAMES, GenerationRequest
from ltx_models.video import encode_jpeg
from ltx_worker.engine import messages
from ltx_worker.engine.encode_ahead import TextsAhead
from ltx_worker.engine.hashes import RememberedHashes
from ltx_worker.engine.messages import Command, Encode, Load, Message, Render, Stop, StopWriting, receive_command, send
from ltx_worker.engine.packing import embeddings, resume_points
from ltx_worker.engine.progress import StageReporter
from ltx_worker.engine.writer import VideoWriter
from ltx_worker.threads.daemon import daemon

__all__ = ["EngineHost", "main"]

log = logging.getLogger(__name__)

ROOM = 400 * 10**6
"""Bytes of frames that may wait to be written during the next render: 3 % of what the smallest real variant may use.

97 frames of 768x512 are 114 MB.
"""


READING_EVERY = 1.0
"""Seconds between two messages about the progress of reading a picture or a clip."""


class EngineHost:
    """Owns one model and renders one request at a time.

    Concurrently it writes the previous render's MP4 and encodes the next render's texts.
    """

    def __init__(self, variant: str, commands: Connection, replies: Connection) -> None:
        self._pipeline = open_pipeline(variant)
        self._ready: messages.Ready | None = None
        self._ended_at: float | None = None
        self._commands = commands
        self._replies = replies
        self._sending = threading.Lock()
        self._told_of_reading = 0.0
        self._writer: VideoWriter | None = None
        self._ahead = TextsAhead(self._pipeline)
        self._work: queue.SimpleQueue[Load | Render] = queue.SimpleQueue()
        self._stop = threading.Event()

    def run(self) -> None:
        """Serve commands until the worker is gone."""
        daemon(self._read, "commands").start()
        while True:
            command = self._work.get()
            try:
                if isinstance(command, Render):
                    self._render_from(command)
                else:
                    self._load()
            except Exception as error:  # noqa: BLE001 — an unexpected error is raised again
                self._send(self._answer(error, loading=isinstance(command, Load)))

    def _answer(self, error: Exception, *, loading: bool) -> messages.Refused | messages.Faulty:
        """Return the message that reports an error.

        A load involves no render, so its failure is always the machine's.

        Raises:
            Exception: the error itself, unless it is a ModelError or a fault of the machine.
        """
        fault = machine_fault(error)
        if loading and fault is None and isinstance(error, ModelError):
            fault = MachineFault(str(error), FaultKind.MODEL)
        if fault is not None:
            log.error("this machine: %s", fault, exc_info=None if isinstance(error, ModelError) else error)
            return messages.Faulty(error=str(fault), kind=fault.kind, confirmed=loading or fault.confirmed)
        if not isinstance(error, ModelError):
            raise error
        log.error("refused: %s", error)
        return messages.Refused(error=str(error))

    def _read(self) -> None:
        while True:
            try:
                command: Command = receive_command(self._commands)
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(command, Stop):
                self._stop.set()
            elif isinstance(command, StopWriting):
                writer = self._writer
                if writer is not None and writer.output == command.output:
                    writer.stop()
            elif isinstance(command, Encode):
                self._ahead.ask(command.texts)
            else:
                if isinstance(command, Render):
                    self._ahead.forget()
                self._stop.clear()
                self._work.put(command)

    def _send(self, message: Message) -> None:
        with self._sending:
            send(self._replies, message)

    def _load(self) -> None:
        """Load every model except what encodes texts, which a render may not need."""
        pipeline = self._pipeline
        pipeline.load_models(self._tell_progress, texts=False)
        remembered = RememberedHashes(HomeSettings().home / "hashes.json")
        hashes = {name: remembered.of(files) for name, files in pipeline.hashed_files.items()}
        pipeline.hashes = hashes
        embedding_maker = embeddings.EmbeddingMaker(
            text=pipeline.text_origin(hashes),
            dtype=str(pipeline.dtype),
            device=_device(),
            mlx=metadata.version("mlx"),
            version=metadata.version("ltx-farm"),
        )
        self._ready = messages.Ready(
            device="gpu" if mx.default_device() == mx.gpu else "cpu",
            checkpoint_hash=hashes[pipeline.variant.family.checkpoint.hashed_as],
            mlx=embedding_maker.mlx,
            embeds_by=embedding_maker.digest,
        )
        self._send(self._ready)

    def _tell_progress(self, fraction: float, text: str) -> None:
        self._send(messages.Loading(fraction=fraction, message=text))

    def _render_from(self, command: Render) -> None:
        """Render from the resume point, or from the beginning if the point cannot be used."""
        ahead = self._ahead.take()
        try:
            self._render(command, ahead)
        except ResumeMismatch as error:
            log.warning("the render begins again: %s", error)
            self._send(messages.Resuming(step=0, reason=str(error)))
            self._render(command.model_copy(update={"resume": None}), ahead)

    def _render(self, command: Render, ahead: Mapping[str, np.ndarray]) -> None:
        waited = None if self._ended_at is None else round(time.monotonic() - self._ended_at, 4)
        stages = StageReporter(
            self._pipeline.variant.stages, command.request.resolve(self._pipeline.variant), self._send
        )
        mx.reset_peak_memory()
        if self._writer is not None and self._writer.pending_bytes > ROOM:
            self._writer.wait()
        last_saved = time.monotonic()
        known = self._known_texts(command, ahead)
        stream = self._pipeline.stream(
            command.request,
            known_texts={**ahead, **known},
            resume=self._resume(command),
            job=command.job,
            checkpoint_every=command.checkpoint_every,
        )
        writer: VideoWriter | None = None
        frames = 0
        result: events.RenderResult | None = None
        with contextlib.ExitStack() as unfinished:
            for event in stream:
                if self._stop.is_set():
                    stream.close()
                    self._send(messages.Stopped())
                    return
                match event:
                    case events.InputRead():
                        self._tell_of_reading(event)
                    case events.StageBegan():
                        stages.begin(event)
                    case events.TextEncoded():
                        fresh = self._fresh_texts(command.request, event.embeddings, known)
                        cut = self._cut_texts(command.request, event.embeddings)
                        self._send(messages.TextEncoded(fresh=fresh, ahead=len(fresh.keys() & ahead.keys()), cut=cut))
                    case events.Progress():
                        saved = None
                        if event.resume is not None and time.monotonic() - last_saved >= command.save_every:
                            saved, last_saved = _saved(event.resume), time.monotonic()
                        stages.progress(event, saved)
                    case events.Previewed():
                        self._send_preview(event)
                    case events.FramesDecoded():
                        if writer is None:
                            writer = self._begin_video(command)
                            unfinished.callback(writer.stop)
                        writer.put(event.frames)
                        with stages.stopped():
                            self._ahead.encode()
                    case events.Decoded():
                        stages.end()
                        frames = len(event.frames)
                    case events.Report():
                        self._send(messages.report(event))
                    case events.Finished():
                        result = event.result
            unfinished.pop_all()
        assert writer is not None
        assert result is not None
        decoded = messages.Decoded(
            frames=frames,
            seconds=stages.seconds,
            peak_memory=mx.get_peak_memory(),
            waited=waited,
            request=result.request,
            scheduler=result.scheduler,
        )
        self._send(decoded)
        writer.complete(result.audio, result.audio_rate)
        self._ended_at = time.monotonic()

    def _send_preview(self, event: events.Previewed) -> None:
        """Send a preview; skip one that cannot be encoded, since that must not end the render."""
        try:
            self._send(messages.Previewed(step=event.step, jpeg=encode_jpeg(event.image)))
        except (OSError, MemoryError) as error:
            log.warning("a preview was left out: %s", error or type(error).__name__)

    def _tell_of_reading(self, event: events.InputRead) -> None:
        """Report the start and the end of reading each picture and clip, and the progress every second between."""
        if 0 < event.part < 1 and time.monotonic() - self._told_of_reading < READING_EVERY:
            return
        self._told_of_reading = time.monotonic()
        what = "picture" if event.kind == "image" else f"{event.seconds} of clip" if event.seconds else "clip"
        self._tell_progress(
            (event.number - 1 + event.part) / event.count, f"reading {what} {event.number} of {event.count}"
        )

    def _begin_video(self, command: Render) -> VideoWriter:
        """Return a writer for this render's MP4, once the previous MP4 is written."""
        if self._writer is not None:
            self._writer.wait()
        request = command.request.resolve(self._pipeline.variant)
        assert request.frame_rate is not None
        assert request.num_frames is not None
        self._writer = VideoWriter(command.output, request.frame_rate, request.num_frames // 2, self._send)
        return self._writer

    def _known_texts(self, command: Render, ahead: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the embeddings that the farm's cache has for a render, by text.

        Load what encodes texts if a text is neither there nor in `ahead`.
        """
        assert self._ready is not None
        known = {}
        texts = command.request.texts
        for text in texts:
            try:
                if data := command.embeddings.get(text):
                    known[text] = embeddings.unpack(data, self._origin(text), self._pipeline.text_shape(text))
            except embeddings.EmbeddingRefused as error:
                log.warning("an embedding from the farm's cache is not used: %s", error)
        if any(text not in known and text not in ahead for text in texts):
            self._pipeline.load_models(self._tell_progress)
        return known

    def _fresh_texts(
        self, request: GenerationRequest, encoded: PromptEmbeddings, known: dict[str, np.ndarray]
    ) -> dict[str, bytes]:
        assert self._ready is not None
        arrays = zip(request.texts, (encoded.prompt, encoded.negative), strict=False)
        return {
            text: embeddings.pack(array, self._origin(text))
            for text, array in arrays
            if text not in known and array is not None
        }

    def _cut_texts(self, request: GenerationRequest, encoded: PromptEmbeddings) -> tuple[CutText, ...]:
        """Return the texts that have more tokens than the text encoder reads."""
        arrays = zip(TEXT_NAMES, request.texts, (encoded.prompt, encoded.negative), strict=False)
        counted = [
            CutText(text=name, tokens=self._pipeline.count_tokens(text), read=array.shape[1])
            for name, text, array in arrays
            if array is not None
        ]
        return tuple(cut for cut in counted if cut.tokens > cut.read)

    def _origin(self, text: str) -> str:
        assert self._ready is not None
        return embeddings.origin(self._ready.embeds_by, text)

    def _resume(self, command: Render) -> ResumePoint | None:
        """Return the command's resume point.

        Raises:
            ResumeMismatch: it cannot be used.
        """
        if command.resume is None:
            return None
        point = resume_points.unpack(command.resume, self._pipeline.provenance(command.job))
        self._send(messages.Resuming(stage=point.stage, step=point.step))
        return point


def _saved(point: ResumePoint) -> bytes | None:
    """Return a resume point as bytes, or None if it is too large to be kept."""
    try:
        return point.pack()
    except ResumeMismatch as error:
        log.warning("no resume point is saved: %s", error)
        return None


def _device() -> str:
    """Return the name of the device that computes; embeddings depend on it, since devices round differently."""
    info: Any = mx.device_info() if mx.default_device() == mx.gpu else {}
    return str(info.get("device_name") or info.get("architecture") or platform.machine())


def _die(failure: threading.ExceptHookArgs) -> None:
    """End the process for an error that a thread does not handle, as the main thread does."""
    sys.excepthook(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    os._exit(1)


def main() -> None:
    """Run the engine until the worker is gone.

    Signals that a terminal sends to the whole process group are ignored: the worker decides when the engine ends.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.excepthook = _die
    variant, command_fd, message_fd = sys.argv[1:]
    commands = Connection(int(command_fd), writable=False)
    replies = Connection(int(message_fd), readable=False)
    EngineHost(variant, commands, replies).run()
