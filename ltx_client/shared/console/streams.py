"""Provide text streams that accept every character, and that report when output is lost."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from typing import Any, TextIO

__all__ = ["OutputLost", "Stream", "encodable", "takes_unicode"]

_OURS = str.maketrans({"…": "...", "━": "-", "°": ""})
"""Replacements for our own characters in encodings without them; characters that others wrote are escaped."""


class OutputLost(Exception):
    """A program's output cannot be written.

    Attributes:
        reader_left: Whether the output was a pipe whose reader has closed it.
        done: What the program had done when its output was lost; a sentence, or empty.
    """

    def __init__(self, error: OSError) -> None:
        self.reader_left = isinstance(error, BrokenPipeError)
        self.done = ""
        super().__init__("it is closed" if error.errno == errno.EBADF else error.strerror or str(error))


class Stream:
    """A text stream that escapes characters that its encoding does not have.

    Args:
        stream: The stream that it writes to.
        needed: Whether errors raise OutputLost; otherwise what cannot be written is lost silently.
    """

    def __init__(self, stream: TextIO, *, needed: bool) -> None:
        self.beneath = stream
        self._needed = needed
        self._lost: OSError | None = None
        self.charset: str = getattr(stream, "encoding", None) or "utf-8"
        with contextlib.suppress(AttributeError, ValueError):  # not every stream can
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    @property
    def encoding(self) -> str:
        """Return UTF-8: click would bypass a stream that says ASCII, and with it the cleaning."""
        return "utf-8" if _codec(self.charset) == "ascii" else self.charset

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        if text:  # click writes an empty text to see what a stream accepts, and ignores its failure
            self._try(lambda: self.beneath.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._try(self.beneath.flush)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def _try(self, writing: Callable[[], object]) -> None:
        try:
            if self._lost is None:
                writing()
        except OSError as error:
            self._lost = error
            with contextlib.suppress(OSError, ValueError):  # buffered output would fail again when the process ends
                handle = os.open(os.devnull, os.O_WRONLY)
                os.dup2(handle, self.beneath.fileno())
                os.close(handle)
        if self._lost is not None and self._needed:
            raise OutputLost(self._lost) from self._lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)


def takes_unicode(stream: object) -> bool:
    """Return whether a text stream can write every character as it is."""
    charset = getattr(stream, "charset", None) or getattr(stream, "encoding", None) or "utf-8"
    return _codec(charset).startswith("utf")


def encodable(text: str, charset: str, *, as_long: bool = False) -> str:
    """Return a text with only characters that an encoding has; others are escaped.

    Args:
        text: The text.
        charset: The encoding.
        as_long: Whether to replace each such character by a single one instead.
    """
    if text.isascii() or _codec(charset).startswith("utf"):
        return text
    if not as_long:
        return text.translate(_OURS).encode(charset, "backslashreplace").decode(charset)
    return "".join(mark if _has(charset, mark) else _OURS.get(ord(mark), "?")[:1] or "?" for mark in text)


def _has(charset: str, mark: str) -> bool:
    return mark.encode(charset, "ignore") != b""


def _codec(charset: str) -> str:
    try:
        return codecs.lookup(charset).name
    except LookupError:
        return "utf-8"
