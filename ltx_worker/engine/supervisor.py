"""The worker's side of the engine: make it load and render, and end it when it hangs."""

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
from ltx_worker.engine.packing.frames import BadFrame
from ltx_worker.engine.process import ENGINE, EngineDied, EngineProcess

__all__ = ["ENGINE", "Engine", "EngineDied"]

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two checks whether a render should stop."""


class Engine:
    """One engine process, started when it is needed and kept between renders.

    Args:
        variant: the name of the variant that it renders.
        stop_grace: seconds that a render has to end after it was stopped, before its process is killed.
        stall_limit: seconds without any message after which a render is taken to hang, and its process is killed.
        module: the module that the process runs.
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
        """The engine's message when its model was loaded; None before."""

    def warm_up(self) -> None:
        """Start the engine and make it load the model; the next render reads its messages.

        Raises:
            MachineFault: the engine does not start.
        """
        try:
            self._start().tell(Load())
        except EngineDied as error:
            raise _cannot_load(error) from error
        self._loading = True

    def render(
        self, make: Callable[[Ready], Render], should_stop: Callable[[], bool], time_limit: float = math.inf
    ) -> Generator[Message, None, None]:
        """Load the model if necessary, start a render, and yield the engine's messages.

        The last message is Decoded, Stopped, Refused or Faulty. After Decoded, `video` is the future of the MP4, and
        the next render may begin. A caller that leaves before the last message ends the process, so that no message of
        this render is taken for one of the next.

        Args:
            make: returns the command, once the model is loaded.
            should_stop: is asked between messages.
            time_limit: seconds after which the render is refused.

        Raises:
            EngineDied: the process died during the render.
            MachineFault: the process cannot be started, or died before it received this render.
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
        """Return the future of the last decoded render's MP4; it ends with VideoError or EngineDied if it fails."""
        assert self._video is not None
        return self._video

    def stop_writing(self, output: Path) -> None:
        """Stop writing an MP4, if it is not complete."""
        process = self._process
        if process is not None and process.is_running:
            process.tell(StopWriting(output=output))

    @property
    def is_rendering(self) -> bool:
        """Return whether a render is running."""
        return self._in_use.locked()

    def encode_ahead(self, texts: list[str]) -> None:
        """Request that texts of the next render be encoded during the current one, if there is memory for that.

        It has no effect if no render is running or the model is not loaded. It never raises: if the engine dies, the
        current render reports it.
        """
        process = self._process
        if process is not None and process.is_running and self.ready is not None and self.is_rendering:
            with contextlib.suppress(EngineDied, BadFrame):
                process.tell(Encode(texts=texts))

    def free_if_idle(self, seconds: float) -> bool:
        """End the process if it runs and has rendered nothing for `seconds`; return whether it was ended."""
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
        tried = not self._loading  # what an earlier load was refused for may be fixed
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
        except BadFrame as error:  # nothing of the render was sent, so the engine is as it was
            assert output is not None
            process.forget_video(output)
            finished = True
            yield Refused(error=f"the render is too large for its process: {error}")
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """End the process, by force if necessary, which frees all its memory. A later render starts a new one."""
        if self._process is not None:
            self._process.end()
        self._process = self.ready = None
        self._loading = False

    def why_it_cannot_load(self, should_stop: Callable[[], bool]) -> MachineFault | None:
        """Return why the model cannot be loaded, or None if it can, or if a render is running."""
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
                if self._loading:  # which continues, for the next render
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
    """Return the machine's fault of a process that died before it received a render."""
    kind = error.fault.kind if error.fault else FaultKind.SOFTWARE
    return MachineFault(f"its render process cannot be loaded: {error}", kind, confirmed=True)
