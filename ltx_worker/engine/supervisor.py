"""The worker's side of the engine: starts the process, talks to it, and tells how it died."""

from __future__ import annotations

import collections
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from typing import IO

from ltx_worker.engine.blas import blas_environment
from ltx_worker.engine.messages import (
    Command,
    Load,
    Message,
    Ready,
    Refused,
    Render,
    Stop,
    Stopped,
    Written,
    receive_message,
    send,
)

__all__ = ["Engine", "EngineDied"]

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two looks at whether a render should stop."""

FIRST_RESTART_DELAY = 0.5
MAX_RESTART_DELAY = 30.0
"""Seconds before an engine that died is started again: the first, doubled with each death in a row, to the second."""


class EngineDied(Exception):
    """The engine ended in the middle of its work: how, and its last output."""


class Engine:
    """One engine process, started when it is needed and kept between renders.

    stop_grace: seconds that a render has to end after it was told to, before its process is killed.
    stall_limit: seconds without any message after which a render is taken to hang, and its process is killed.
    """

    def __init__(self, variant: str, *, stop_grace: float = 20.0, stall_limit: float = 600.0) -> None:
        self._variant = variant
        self._stop_grace = stop_grace
        self._stall_limit = stall_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._output: collections.deque[str] = collections.deque(maxlen=1)
        self.ready: Ready | None = None
        """What the engine said of itself when its model was loaded; None before."""

    def warm_up(self) -> None:
        """Starts the engine and has it load the model; its messages are read by the next render."""
        self._start()
        self._tell(Load())

    def render(
        self, command: Render, should_stop: Callable[[], bool], time_limit: float = math.inf
    ) -> Generator[Message, None, None]:
        """Sends the render and yields the engine's messages; the last is Written, Stopped or Refused.

        `should_stop` is asked between messages; a render over `time_limit` seconds is refused. A caller that leaves
        before the last message ends the process, so that nothing of this render reaches the next. Raises EngineDied.
        """
        if not self._await_restart(should_stop):
            yield Stopped()
            return
        self._start()
        self._tell(command)
        finished = False
        try:
            for message in self._messages_until(should_stop, time_limit):
                finished = isinstance(message, Written | Stopped | Refused)
                if finished:
                    self._deaths = 0
                yield message
                if finished:
                    return
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """Ends the process, by force if it must; frees all its memory. A later render starts a new one."""
        if self._process is None:
            return
        self._commands.close()  # its reader thread exits at end-of-file
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._drain.join(timeout=2)
        self._messages.close()
        self._process = self.ready = None

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        command_read, command_write = os.pipe()
        message_read, message_write = os.pipe()
        self._output.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ltx_worker.engine", self._variant, str(command_read), str(message_write)],
            pass_fds=(command_read, message_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **blas_environment()},
        )
        os.close(command_read)
        os.close(message_write)
        self._commands = Connection(command_write, readable=False)
        self._messages = Connection(message_read, writable=False)
        assert self._process.stdout is not None
        self._drain = threading.Thread(target=self._keep_output, args=(self._process.stdout,), daemon=True)
        self._drain.start()

    def _await_restart(self, should_stop: Callable[[], bool]) -> bool:
        """Waits after deaths in a row, longer after each. False: told to stop before the time came."""
        if self._deaths == 0:
            return True
        deadline = time.monotonic() + min(FIRST_RESTART_DELAY * 2 ** (self._deaths - 1), MAX_RESTART_DELAY)
        while time.monotonic() < deadline:
            if should_stop():
                return False
            time.sleep(POLL)
        return True

    def _messages_until(self, should_stop: Callable[[], bool], time_limit: float) -> Iterator[Message]:
        began = last_message = time.monotonic()
        stop_by = math.inf
        while True:
            now = time.monotonic()
            if stop_by == math.inf and should_stop():
                self._tell(Stop())
                stop_by = now + self._stop_grace
            if now > stop_by:
                log.warning("the engine did not stop within %g s; killing it", self._stop_grace)
                self.close()
                yield Stopped()
            if now - began > time_limit:
                self.close()
                yield Refused(error=f"it took longer than its limit of {time_limit:g} s")
            if now - last_message > self._stall_limit:
                self._deaths += 1
                self.close()
                raise EngineDied(f"the render made no progress for {self._stall_limit:g} s, and its process was killed")
            message = self._receive()
            if message is None:
                continue
            last_message = now
            if isinstance(message, Ready):
                self.ready = message
            else:
                yield message

    def _keep_output(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._output.append(text)
                    log.info("engine: %s", text)

    def _tell(self, command: Command) -> None:
        try:
            send(self._commands, command)
        except OSError:
            raise self._death() from None

    def _receive(self) -> Message | None:
        """The next message, or None when there was none for a moment."""
        try:
            return receive_message(self._messages) if self._messages.poll(POLL) else None
        except (EOFError, OSError):
            raise self._death() from None

    def _death(self) -> EngineDied:
        assert self._process is not None
        self._deaths += 1
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._drain.join(timeout=2)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = "its last words: " + self._output[-1].strip() if self._output else "it said nothing"
        self.close()
        return EngineDied(f"the render process died with {how}; {words}")
