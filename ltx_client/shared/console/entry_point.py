"""Begin and end a program of this project: silently on Ctrl-C, and with all three standard streams open.

The programs' modules take a second to import, so the entry points import this one alone and name the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from types import FrameType

__all__ = ["INTERRUPTED", "READER_LEFT", "interrupt_ends_at_once", "open_streams", "run"]

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a program that Ctrl-C ended."""
READER_LEFT = 128 + signal.SIGPIPE
"""The exit code of a program whose reader, such as `head`, stopped reading."""
_STREAMS = (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))
"""Replacements for closed streams: nothing is read, stdout cannot be written, and what goes to stderr is lost."""


def run(module: str) -> None:
    """Run the command `main` of a module and exit. Ctrl-C ends the process at once until the command begins."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # not if a shell ignores it
        signal.signal(signal.SIGINT, _leave)
    open_streams()
    main = import_module(module).main
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, _leave)


@contextlib.contextmanager
def interrupt_ends_at_once() -> Iterator[None]:
    """End the process silently on Ctrl-C while inside, where nothing has begun yet, such as during imports.

    If Ctrl-C is already handled otherwise, as in a shell that ignores it, that remains so.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def open_streams() -> None:
    """Open the closed ones of the standard streams, so that no other file gets one of their numbers."""
    for number, (name, access) in enumerate(_STREAMS):
        if getattr(sys, name) is not None:
            continue
        handle = os.open(os.devnull, access)
        if handle != number:
            os.dup2(handle, number)
            os.close(handle)
        os.set_inheritable(number, True)
        stream = open(number, "r" if name == "stdin" else "w", closefd=False)  # noqa: SIM115 - for good
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
