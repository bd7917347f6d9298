"""The engine process: `python -m ltx_worker.engine VARIANT COMMAND_FD MESSAGE_FD`.

Started with `subprocess`, never forked, since Metal does not survive a fork. It holds the model warm between
renders. A reader thread takes commands and ends the process the moment the worker's end of the pipe closes,
so it never outlives the worker. What is not a ModelError ends it too: the worker keeps its last output.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from importlib import metadata
from multiprocessing.connection import Connection

import mlx.core as mx

from ltx_models import events
from ltx_models.errors import ModelError
from ltx_models.events import ResumePoint
from ltx_models.pipeline import LTXPipeline
from ltx_models.video import encode_jpeg
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Command, Load, Message, Render, Stop, receive_command, send
from ltx_worker.engine.resume import Maker, ResumeRefused, pack, unpack

log = logging.getLogger(__name__)


class EngineProcess:
    """One model, one render at a time."""

    def __init__(self, variant: str, commands: Connection, replies: Connection) -> None:
        self._pipeline = LTXPipeline(variant)
        self._loaded = False
        self._commands = commands
        self._replies = replies
        self._work: queue.SimpleQueue[Load | Render] = queue.SimpleQueue()
        self._stop = threading.Event()

    def run(self) -> None:
        """Serves commands until the worker is gone."""
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            command = self._work.get()
            try:
                self._load()
                if isinstance(command, Render):
                    self._render(command)
            except ModelError as error:
                if isinstance(command, Render):
                    self._send(messages.Refused(error=str(error)))
                else:  # the next render tries again, and is told
                    log.error("the model could not be loaded: %s", error)

    def _read(self) -> None:
        while True:
            try:
                command: Command = receive_command(self._commands)
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(command, Stop):
                self._stop.set()
            else:
                self._stop.clear()
                self._work.put(command)

    def _send(self, message: Message) -> None:
        send(self._replies, message)

    def _load(self) -> None:
        if self._loaded:
            return
        self._pipeline.load_models(lambda fraction, text: self._send(messages.Loading(fraction=fraction, message=text)))
        self._loaded = True
        device = "gpu" if mx.default_device() == mx.gpu else "cpu"
        self._send(
            messages.Ready(device=device, checkpoint_hash=self._pipeline.checkpoint_hash, mlx=metadata.version("mlx"))
        )

    def _render(self, command: Render) -> None:
        clock = _PhaseClock()
        mx.reset_peak_memory()
        result = None
        last_saved = time.monotonic()
        stream = self._pipeline.stream(
            command.request, resume=self._resume(command), checkpoint_every=command.checkpoint_every
        )
        for event in stream:
            if self._stop.is_set():
                stream.close()
                self._send(messages.Stopped())
                return
            match event:
                case events.TextEncoded():
                    clock.finish("text")
                    self._send(messages.TextEncoded())
                case events.Stepped():
                    saved = None
                    if time.monotonic() - last_saved >= command.save_every:
                        saved, last_saved = pack(event.resume, self._maker()), time.monotonic()
                    self._send(
                        messages.Stepped(step=event.step, steps=event.steps, seconds=event.seconds, resume=saved)
                    )
                    if event.step == event.steps:
                        clock.finish("denoise")
                case events.Previewed():
                    self._send(messages.Previewed(step=event.step, jpeg=encode_jpeg(event.image)))
                case events.Decoded():
                    clock.finish("decode")
                    self._send(messages.Decoded(frames=len(event.frames)))
                case events.Finished():
                    result = event.result
        assert result is not None
        result.save(command.output)
        clock.finish("encode")
        data = command.output.read_bytes()
        self._send(
            messages.Written(
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                seconds=clock.seconds,
                peak_memory=mx.get_peak_memory(),
            )
        )

    def _resume(self, command: Render) -> ResumePoint | None:
        if command.resume is None:
            return None
        try:
            point = unpack(command.resume, self._maker())
        except ResumeRefused as error:
            self._send(messages.Resuming(step=0, reason=str(error)))
            return None
        self._send(messages.Resuming(step=point.step))
        return point

    def _maker(self) -> Maker:
        return Maker(
            checkpoint=self._pipeline.checkpoint_hash,
            text_encoder=self._pipeline.text_encoder_hash,
            dtype=str(self._pipeline.dtype),
            version=metadata.version("ltx-farm"),
        )


class _PhaseClock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def finish(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = round(now - self._since, 4)
        self._since = now


def main() -> None:
    """Ignores SIGINT, which a terminal sends to the whole group: the worker decides when the engine ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    variant, command_fd, message_fd = sys.argv[1:]
    commands = Connection(int(command_fd), writable=False)
    replies = Connection(int(message_fd), readable=False)
    EngineProcess(variant, commands, replies).run()


if __name__ == "__main__":
    main()
