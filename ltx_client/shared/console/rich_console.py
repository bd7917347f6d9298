"""Provide rich's console for tables, bars and styles: texts are cleaned first, so that the only styles are our own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ltx_client.protocol.text import printable, shown
from ltx_client.shared.console.stdio import unguarded
from ltx_client.shared.console.streams import encodable

__all__ = ["Console", "styled"]

_LEAST = {"COLUMNS": 20, "LINES": 4}
"""The smallest size of a terminal; a parent process may give 0 for a size that it does not know."""
LONGEST_SIZE = 6
"""Digits."""


class Console(RichConsole):
    """A console without markup: styles are those of a `Text`. A text or a cell is one line, whatever it contains."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        options.setdefault("_environ", {name: value for name, value in os.environ.items() if _is_size(name, value)})
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **options)

    @property
    def file(self) -> IO[str]:
        """Return the stream that it writes to, without the guard, which would remove the styles."""
        return unguarded(cast(TextIO, super().file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    @property
    def encoding(self) -> str:
        """Return the encoding of the stream; rich draws with fewer characters if it has few."""
        file = self.file
        return str(getattr(file, "charset", None) or getattr(file, "encoding", None) or "utf-8").lower()

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as a text that can be laid out."""
        return super().render_str(encodable(shown(text), self.encoding), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable."""
        if isinstance(renderable, Text):
            renderable = _cleaned(renderable, self.encoding)
        for segment in super().render(renderable, options):
            text = encodable(printable(segment.text, lines=True), self.encoding, as_long=True)
            yield segment if segment.control else segment._replace(text=text)


def _is_size(name: str, value: str) -> bool:
    """Return whether a variable is not about the terminal's size, or gives one in which text can be read."""
    if name not in _LEAST or not value.isdigit():  # which rich reads as well
        return True
    return value.isdecimal() and len(value) <= LONGEST_SIZE and int(value) >= _LEAST[name]


def styled(text: str, style: str) -> Text:
    """Return a text in a style."""
    return Text(shown(text), style=style)


def _cleaned(text: Text, charset: str) -> Text:
    """Return the text cleaned: the same styles on the same characters, or one style if any character changed."""
    plain = encodable(shown(text.plain), charset)
    if plain == text.plain:
        return text
    if len(plain) != len(text.plain):
        return Text(plain, style=text.style, no_wrap=text.no_wrap, overflow=text.overflow, end=text.end)
    cleaned = text.copy()
    cleaned.plain = plain
    return cleaned
