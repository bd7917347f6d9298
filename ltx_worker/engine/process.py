"""The worker's handle on one engine process: its pipes, its last output, and how it died."""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from ltx_models.blas import blas_environment
from ltx_models.errors import FaultKind, MachineFault, VideoError
from ltx_models.gpu_environment import set_gpu_environment
from ltx_models.machine_faults import machine_fault
from ltx_worker.engine.exit_reasons import host_fault, kills_for_memory
from ltx_worker.engine.messages import Command, Message, Unwritten, Written, receive_message, send
from ltx_worker.threads.background import keep_at_it, watched
from ltx_worker.threads.watched import Loop, brief

__all__ = ["ENGINE", "EngineDied", "EngineProcess"]

log = logging.getLogger(__name__)

ENGINE = "ltx_worker.engine"
OUTPUT_LINES = 50
"""How many of the engine's last lines of output are kept, to tell why it died."""
LONGEST_LINE = 2**16
"""The most bytes of the engine's output that are taken for one line."""
STUCK_AFTER = 600.0
"""Seconds for which the process may read nothing of a command before it is taken to hang, and is killed."""
END_TIMEOUT = 2.0
"""Seconds that a process has to end by itself."""
EXIT_TIMEOUT = 5.0
"""Seconds that a process has to end after it closed its pipes."""


class EngineDied(Exception):
    """The engine ended in the middle of its work; the message says how, with its last output.

    Attributes:
        fault: the machine's fault, or None if the job may have ended the engine.
        alone: whether it had only one render; of two, nobody knows which one ended it.
    """

    def __init__(self, message: str, fault: MachineFault | None = None, *, alone: bool = True) -> None:
        super().__init__(message)
        self.fault = fault
        self.alone = alone


class EngineProcess:
    """A process that runs `module` for `variant`.

    A thread reads its messages. A message about a video, which is written during the next render, completes that
    video's future; `receive` returns all others in order.

    Raises:
        MachineFault: the process cannot be started.
    """

    def __init__(self, module: str, variant: str) -> None:
        self._inbox: queue.SimpleQueue[Message | EngineDied] = queue.SimpleQueue()
        self._videos: dict[Path, Future[Written]] = {}
        self._died: EngineDied | None = None
        self._changing = threading.Lock()
        self._telling = threading.Lock()
        self._output: collections.deque[str] = collections.deque(maxlen=OUTPUT_LINES)
        self._why_killed = ""
        self._kills_before = kills_for_memory()
        try:
            self._process, self._commands, self._messages = _start(module, variant)
        except OSError as error:  # whatever the error is, no render has caused it
            fault = machine_fault(error)
            kind = fault.kind if fault and fault.kind is not FaultKind.FOLDER else FaultKind.SOFTWARE
            raise MachineFault(f"the render process cannot be started: {error}", kind, confirmed=True) from error
        assert self._process.stdout is not None
        output = self._process.stdout
        self._drain = watched(lambda loop: self._keep_output(output, loop), "engine-output", limit=math.inf)
        self._reader = watched(self._read, "engine-messages", limit=math.inf)  # an idle engine says nothing
        self._drain.start()
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Return whether the process has not ended."""
        return self._process.poll() is None

    @property
    def is_busy(self) -> bool:
        """Return whether the process still has a video to write."""
        return bool(self._videos)

    def tell(self, command: Command) -> None:
        """Send a command.

        Raises:
            EngineDied: the process has ended.
            BadFrame: it is too large; nothing of it was sent.
        """
        try:
            with self._telling:
                send(self._commands, command, patience=STUCK_AFTER)
        except OSError as error:
            if isinstance(error, TimeoutError):
                log.error("the engine is ended: %s", error)
                self._kill("it read no command")
            self._reader.join()
            assert self._died is not None
            raise self._died from None

    def receive(self, timeout: float) -> Message | None:
        """Return the next message, or None if there was none for `timeout` seconds.

        Raises:
            EngineDied: the process has ended.
        """
        try:
            message = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(message, EngineDied):
            raise message
        return message

    def expect_video(self, output: Path) -> Future[Written]:
        """Return the future of a video that will be written; it ends with VideoError or EngineDied if it is not."""
        video: Future[Written] = Future()
        with self._changing:
            if self._died is None:
                self._videos[output] = video
            else:
                video.set_exception(self._died)
        return video

    def forget_video(self, output: Path) -> None:
        """Expect a video no longer, since it will not be written."""
        with self._changing:
            self._videos.pop(output, None)

    def end(self) -> None:
        """End the process, by force if necessary, which frees all its memory."""
        if not self._telling.acquire(timeout=END_TIMEOUT):  # it does not read the command that another thread sends
            self._kill("it read no command")
            self._telling.acquire()
        self._commands.close()  # its reader thread exits at end-of-file
        self._telling.release()
        try:
            self._process.wait(timeout=END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._kill("it was to end, and did not")
            self._process.wait()
        self._reader.join()

    def _kill(self, why: str) -> None:
        """Kill the process, if it has not ended by itself, and remember why."""
        if self.is_running:
            self._why_killed = self._why_killed or why
            self._process.kill()

    def _read(self, loop: Loop) -> None:
        try:
            while True:
                message = receive_message(self._messages)
                if isinstance(message, Written | Unwritten):
                    self._tell_of_video(message)
                else:
                    self._inbox.put(message)
                loop.beat()
        except (EOFError, OSError):
            pass
        except BaseException as error:  # noqa: BLE001 - an invalid message, or no memory for it: the last one
            loop.note(error)
            log.error("the engine is ended: a message of it cannot be read: %s", brief(error))
            self._kill("a message of it cannot be read")
        self._end_of_messages()

    def _end_of_messages(self) -> None:
        with contextlib.suppress(OSError):
            self._messages.close()
        with self._changing:
            self._died = error = self._death(alone=len(self._videos) <= 1)
            videos, self._videos = self._videos, {}
        for video in videos.values():
            video.set_exception(error)
        self._inbox.put(error)

    def _tell_of_video(self, message: Written | Unwritten) -> None:
        with self._changing:
            video = self._videos.pop(message.output, None)
        if video is None:
            log.info("ignored a message about a video that is expected no longer: %r", message)
        elif isinstance(message, Written):
            video.set_result(message)
        else:
            video.set_exception(VideoError(message.error, message.kind))

    def _keep_output(self, stream: IO[bytes], loop: Loop) -> None:
        """Read the engine's output to its end, despite errors: an engine whose output nobody reads blocks."""
        ended = threading.Event()

        def read() -> None:
            line = stream.readline(LONGEST_LINE)
            if not line:
                ended.set()
            elif text := line.decode(errors="replace").rstrip():
                self._output.append(text)
                log.info("engine: %s", text)

        with stream:
            keep_at_it(read, loop, ended)

    def _death(self, *, alone: bool) -> EngineDied:
        try:
            code = self._process.wait(timeout=EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._kill("it closed its pipe, and did not end")
            code = self._process.wait()
        self._drain.join(timeout=2)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        by_worker = code == -signal.SIGKILL and bool(self._why_killed)
        if by_worker:
            how += f", sent by its worker since {self._why_killed}"
        fault = host_fault(code, self._output, self._kills_before, by_worker=by_worker)
        words = "its last output: " + self._output[-1].strip() if self._output else "it wrote nothing"
        why = f" ({fault})" if fault else ""
        message = f"the render process died with {how}{why}; {words}"
        return EngineDied(message, MachineFault(message, fault.kind) if fault else None, alone=alone)


def _start(module: str, variant: str) -> tuple[subprocess.Popen[bytes], Connection, Connection]:
    """Start a process; return it, the pipe for commands to it, and the pipe for its messages.

    Raises:
        OSError: the process cannot be started; nothing is left open.
    """
    environment = {**os.environ, **blas_environment()}
    set_gpu_environment(environment, sys.platform)
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        commands, told_by = _pipe(theirs, ours)
        answers, answered_by = _pipe(ours, theirs)
        os.set_blocking(told_by, False)  # our end alone: a process that reads nothing must not hold its worker
        process = subprocess.Popen(
            [sys.executable, "-m", module, variant, str(commands), str(answered_by)],
            pass_fds=(commands, answered_by),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        ours.pop_all()
        return process, Connection(told_by, readable=False), Connection(answers, writable=False)


def _pipe(readers: contextlib.ExitStack, writers: contextlib.ExitStack) -> tuple[int, int]:
    """Return the two ends of a pipe, each registered to be closed with those of the process that has it."""
    read, write = os.pipe()
    readers.callback(os.close, read)
    writers.callback(os.close, write)
    return read, write
