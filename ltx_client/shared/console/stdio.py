"""Print to terminals and logs: all output passes through this module, which removes controls and secrets.

Commands use `notice`, `print_line` and `print_json`, each of which prints one line, whatever it contains. Other output,
such as click's own messages, a library's warnings or a traceback, passes through `guarded` streams. Tables and bars use
`ltx_client.shared.console.rich_console`, which styles what it has cleaned.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO

import click

from ltx_client.protocol.redaction import hide_environment_secrets, redacted
from ltx_client.protocol.text import json_text, shown
from ltx_client.shared.console.entry_point import INTERRUPTED, READER_LEFT
from ltx_client.shared.console.streams import OutputLost, Stream, takes_unicode

__all__ = ["Group", "LineFormatter", "guarded", "notice", "print_json", "print_line", "unguarded"]

INDENT = "    "


def notice(text: str) -> None:
    """Print a line for the user on stderr."""
    click.echo(shown(text), err=True)


def print_line(text: object, *, done: str = "") -> None:
    """Print a line of data on stdout.

    Args:
        text: The line.
        done: What the command has done, to be said on stderr if the line is lost.
    """
    with _doing(done):
        click.echo(shown(str(text)))


def print_json(data: object, *, indent: int | None = 2, done: str = "") -> None:
    """Print data for programs on stdout as JSON, in ASCII if the stream takes nothing else.

    Args:
        data: The data.
        indent: As `json.dumps` takes it.
        done: What the command has done, to be said on stderr if the data is lost.
    """
    with _doing(done):
        click.echo(json_text(_without_secrets(data), indent=indent, ascii_only=not takes_unicode(sys.stdout)))


@contextlib.contextmanager
def _doing(done: str) -> Iterator[None]:
    try:
        yield
    except OutputLost as lost:
        lost.done = done
        raise


def _without_secrets(data: Any) -> Any:
    match data:
        case str():
            return redacted(data)
        case Mapping():
            return {_without_secrets(key): _without_secrets(value) for key, value in data.items()}
        case list() | tuple():
            return [_without_secrets(value) for value in data]
    return data


class Group(click.Group):
    """A program's outermost group: everything it prints passes through guarded streams, and Ctrl-C ends it silently."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program. It fails if its output is lost, unless the reader has stopped reading."""
        with guarded():
            try:
                return super().main(*args, **kwargs)
            except OutputLost as lost:
                if lost.reader_left:
                    if lost.done:
                        notice(lost.done)
                    sys.exit(READER_LEFT)
                notice(f"Error: stdout cannot be written: {lost}" + (f"; {lost.done}" if lost.done else ""))
                sys.exit(os.EX_IOERR)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Clean stdout, stderr, the log's warnings and tracebacks while inside, and the traceback that ends the process."""
    hide_environment_secrets(os.environ)
    sys.excepthook = _print_crash
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Guarded(before[0], needed=True), _Guarded(before[1], needed=False)
    last_resort, logging.lastResort = logging.lastResort, _LastResort()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        logging.lastResort = last_resort


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream without its guard, for callers that clean their text themselves."""
    return stream.beneath if isinstance(stream, _Guarded) else stream


class _Guarded:
    """A text stream that removes secrets and controls, except line feeds, from what is written."""

    def __init__(self, stream: TextIO, *, needed: bool) -> None:
        beneath: Any = unguarded(stream)
        self.beneath: Any = beneath if isinstance(beneath, Stream) else Stream(beneath, needed=needed)

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes a text, not {type(text).__name__}")
        self.beneath.write(shown(text, lines=True))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)


class LineFormatter(logging.Formatter):
    """A log formatter that makes one line of each record, so that none can be forged, and indents tracebacks."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the record as one line."""
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return a traceback with indented lines."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """Return a stack with indented lines."""
        return _indented(stack_info)


class _LastResort(logging.StreamHandler[TextIO]):
    """A handler that prints warnings of a program without a log, on the current stderr."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)
        self.setFormatter(LineFormatter())


def _indented(text: str) -> str:
    return "\n".join(INDENT + line for line in shown(text, lines=True).split("\n"))


def _print_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback that ends the process, if there is a stream to print it on."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(shown("".join(traceback.format_exception(kind, error, trace)), lines=True))
