"""The worker's side of the engine: has it load and render, and ends it where it does not."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from pathlib import Path

from ltx_models.errors import FaultKind, MachineFault
from ltx_worker.engine.messages import (
    Decoded,
    Encode,
    Faulty,
    Load,
    Message,
    Ready,
    Refused,
    Render,
    Stop,
    Stopped,
    StopWriting,
    Written,
)
from ltx_worker.engine.process import ENGINE, EngineDied, EngineProcess

__all__ = ["ENGINE", "Engine", "EngineDied"]

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two looks at whether a render should stop."""


class Engine:
    """One engine process, started when it is needed and kept between renders.

    stop_grace: seconds that a render has to end after it was told to, before its process is killed.
    stall_limit: seconds without any message after which a render is taken to hang, and its process is killed.
    module: what the process runs.
    """

    def __init__(
        self, variant: str, *, stop_grace: float = 10.0, stall_limit: float = 600.0, module: str = ENGINE
    ) -> None:
        self._variant = variant
        self._module = module
        self._stop_grace = stop_grace
        self._stall_limit = stall_limit
        self._process: EngineProcess | None = None
        self._loading = False
        self._in_use = threading.Lock()
        self._used_at = time.monotonic()
        self._video: Future[Written] | None = None
        self.ready: Ready | None = None
        """What the engine said of itself when its model was loaded; None before."""

    def warm_up(self) -> None:
        """Starts the engine and has it load the model; its messages are read by the next render.

        Raises MachineFault where it does not start.
        """
        try:
            self._start().tell(Load())
        except EngineDied as error:
            raise _cannot_load(error) from error
        self._loading = True

    def render(
        self, make: Callable[[Ready], Render], should_stop: Callable[[], bool], time_limit: float = math.inf
    ) -> Generator[Message, None, None]:
        """Has the model loaded, sends the render that `make` makes then, and yields the engine's messages; the last is
        Decoded, Stopped, Refused or Faulty. After Decoded, `video` tells of the MP4, and the next render may begin.

        `should_stop` is asked between messages; a render over `time_limit` seconds is refused. A caller that leaves
        before the last message ends the process, so that nothing of this render reaches the next.

        Raises EngineDied, and MachineFault where the process cannot be started, or dies before it knew of this render.
        """
        while not self._in_use.acquire(timeout=POLL):  # by the render before, whose frames are being decoded
            if should_stop():
                yield Stopped()
                return
        try:
            yield from self._render(make, should_stop, time_limit)
        finally:
            self._used_at = time.monotonic()
            self._in_use.release()

    @property
    def video(self) -> Future[Written]:
        """Of the last render that was decoded: its MP4, or VideoError or EngineDied."""
        assert self._video is not None
        return self._video

    def stop_writing(self, output: Path) -> None:
        """Has the MP4 not be finished, if it is not."""
        process = self._process
        if process is not None and process.is_running:
            process.tell(StopWriting(output=output))

    @property
    def is_rendering(self) -> bool:
        """Whether a render is in hand."""
        return self._in_use.locked()

    def encode_ahead(self, texts: list[str]) -> None:
        """Has texts of the next render encoded beside the one in hand, as far as there is memory for that. Does nothing
        where none is in hand, or the model is not loaded. Never raises: what the engine dies of, that render tells.
        """
        process = self._process
        if process is not None and process.is_running and self.ready is not None and self.is_rendering:
            with contextlib.suppress(EngineDied):
                process.tell(Encode(texts=texts))

    def free_if_idle(self, seconds: float) -> bool:
        """Ends the process if it runs and has rendered nothing for so long. Returns whether it did."""
        if not self._in_use.acquire(blocking=False):
            return False
        try:
            if self._process is None or self._process.is_busy or time.monotonic() - self._used_at < seconds:
                return False
            self.close()
            return True
        finally:
            self._in_use.release()

    def _render(
        self, make: Callable[[Ready], Render], should_stop: Callable[[], bool], time_limit: float
    ) -> Generator[Message, None, None]:
        process = self._start()
        tried = not self._loading  # what an earlier load was refused for may be mended
        output: Path | None = None
        finished = False

        def begin(ready: Ready) -> None:
            nonlocal output
            render = make(ready)
            output = render.output
            self._video = process.expect_video(output)
            process.tell(render)

        try:
            if self.ready is not None:
                begin(self.ready)
            elif not self._loading:
                self.warm_up()
            for message in self._messages_until(process, should_stop, time_limit):
                if isinstance(message, Ready):
                    begin(message)
                    continue
                if isinstance(message, Faulty) and self._loading:
                    self._loading = False
                    if not tried:
                        tried = True
                        self.warm_up()
                        continue
                finished = isinstance(message, Decoded | Stopped | Refused | Faulty)
                if isinstance(message, Stopped | Refused | Faulty) and output is not None:
                    process.forget_video(output)
                if isinstance(message, Faulty) and not process.is_busy:
                    self.close()  # the next one gets a process in which nothing has gone wrong
                yield message
                if finished:
                    return
        except EngineDied as error:
            if output is not None:
                raise
            raise _cannot_load(error) from error
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """Ends the process, by force if it must; frees all its memory. A later render starts a new one."""
        if self._process is not None:
            self._process.end()
        self._process = self.ready = None
        self._loading = False

    def why_it_cannot_load(self, should_stop: Callable[[], bool]) -> MachineFault | None:
        """Has the model loaded, unless it is or a render is running; what keeps it from that, if anything does."""
        if not self._in_use.acquire(blocking=False):
            return None
        try:
            if self.ready is not None and self._process is not None and self._process.is_running:
                return None
            self.close()
            self.warm_up()
            assert self._process is not None
            for message in self._messages_until(self._process, should_stop, math.inf):
                if isinstance(message, Faulty):
                    self.close()
                    return message.fault
                if isinstance(message, Ready | Stopped):
                    return None
        except EngineDied as error:
            self.close()
            return _cannot_load(error)
        except MachineFault as fault:
            return fault
        finally:
            self._used_at = time.monotonic()
            self._in_use.release()
        raise AssertionError("the messages ended")

    def _start(self) -> EngineProcess:
        if self._process is None or not self._process.is_running:
            self.close()
            self._process = EngineProcess(self._module, self._variant)
        return self._process

    def _messages_until(
        self, process: EngineProcess, should_stop: Callable[[], bool], time_limit: float
    ) -> Iterator[Message]:
        began = last_message = time.monotonic()
        stop_by = math.inf
        while True:
            now = time.monotonic()
            if stop_by == math.inf and should_stop():
                if self._loading:  # goes on, for the next render
                    yield Stopped()
                process.tell(Stop())
                stop_by = now + self._stop_grace
            if now > stop_by:
                log.warning("the engine did not stop within %g s; killing it", self._stop_grace)
                self.close()
                yield Stopped()
            if now - began > time_limit:
                self.close()
                yield Refused(error=f"it took longer than its limit of {time_limit:g} s")
            if now - last_message > self._stall_limit:
                self.close()
                raise EngineDied(f"the render made no progress for {self._stall_limit:g} s, and its process was killed")
            message = process.receive(POLL)
            if message is None:
                continue
            last_message = now
            if isinstance(message, Ready):
                self.ready, self._loading = message, False
            yield message


def _cannot_load(error: EngineDied) -> MachineFault:
    """What a process that died before it was told of a render says of its machine."""
    kind = error.fault.kind if error.fault else FaultKind.SOFTWARE
    return MachineFault(f"its render process cannot be loaded: {error}", kind, confirmed=True)
