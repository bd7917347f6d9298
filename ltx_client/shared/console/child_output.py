"""Show the output of child processes to a person, a line at a time, without controls and secrets."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from ltx_client.shared.console.stdio import notice, print_line

__all__ = ["ending_with_us", "run_shown"]

LAST_SECONDS = 5.0
"""Seconds that a process has to exit after it was told to."""


@contextlib.contextmanager
def ending_with_us(process: subprocess.Popen[Any]) -> Iterator[None]:
    """End a process that still runs when the block is left, also if SIGTERM or SIGHUP ends this one meanwhile."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        process.terminate()
        try:
            process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:  # it is suspended, or waits for a device
            process.kill()


def run_shown(
    command: Sequence[str], take: Callable[[str], object] = print_line, variables: Mapping[str, str] | None = None
) -> int:
    """Run a process to its end, show each line as it comes, and return the exit code.

    Args:
        command: The program and its arguments.
        take: Receives each line of its stdout, to print or keep it; lines of its stderr are notices.
        variables: Of its environment, in addition to those of this process.

    Raises:
        OSError: The program cannot be started.
    """
    with (
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **(variables or {})},
        ) as process,
        ending_with_us(process),
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        errors = threading.Thread(target=_pass_on, args=(process.stderr, notice), daemon=True)
        errors.start()
        _pass_on(process.stdout, take)
        errors.join()
        return process.wait()


def _pass_on(stream: IO[str], take: Callable[[str], object]) -> None:
    for line in stream:
        take(line.rstrip("\n"))
