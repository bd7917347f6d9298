"""Processes whose words are for the person: shown a line at a time, without controls and without secrets."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import IO

from ltx_client.protocol.screen import notice, print_line

__all__ = ["run_shown"]


def run_shown(command: Sequence[str], take: Callable[[str], object] = print_line) -> int:
    """Run a process to its end, and show each line as it comes; return the exit code.

    take: gets each line of its stdout, to print it or to keep it; those of its stderr are notices.
    Raises OSError where the program is not there.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = threading.Thread(target=_pass_on, args=(process.stderr, notice), daemon=True)
        errors.start()
        try:
            _pass_on(process.stdout, take)
        except KeyboardInterrupt:
            process.terminate()  # a signal to this process alone has not reached it
            raise
        errors.join()
        return process.wait()


def _pass_on(stream: IO[str], take: Callable[[str], object]) -> None:
    for line in stream:
        take(line.rstrip("\n"))
