"""rich's console, for tables, bars and styles: what it lays out is cleaned first, so that only the styles are ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ltx_client.protocol.screen import unguarded
from ltx_client.protocol.text import printable, shown

__all__ = ["Console", "styled"]


class Console(RichConsole):
    """Reads no markup: a style is a `Text`'s. A text, or a cell, is one line, whatever is in it."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **options)

    @property
    def file(self) -> IO[str]:
        """Where it writes: beneath the guard, which would take the styles away."""
        return unguarded(cast(TextIO, super().file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as what can be laid out."""
        return super().render_str(shown(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what a renderable consists of."""
        if isinstance(renderable, Text):
            renderable = _cleaned(renderable)
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, lines=True))


def styled(text: str, style: str) -> Text:
    """Return a text in a style."""
    return Text(shown(text), style=style)


def _cleaned(text: Text) -> Text:
    """The same styles on the same characters, or one style on all where a secret was hidden."""
    plain = shown(text.plain)
    if plain == text.plain:
        return text
    if len(plain) != len(text.plain):
        return Text(plain, style=text.style, no_wrap=text.no_wrap, overflow=text.overflow, end=text.end)
    cleaned = text.copy()
    cleaned.plain = plain
    return cleaned
