"""Represent what is read from a batch's file: its lines, what is wrong with one, and remarks for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["LINE_END", "Line", "LineError", "Remarks", "check_prompt"]

LINE_END = re.compile(r"\r\n|\r|\n")
"""The ends of lines, without U+2028, U+0085, vertical tabs and the like, which `str.splitlines` takes for ends too."""
_MARK = re.compile(r"(?:[-*+>•‣◦▪●·–—]|\d{1,4}[.):])\s|#|prompt\s*[:=]|.*\t", re.IGNORECASE)
_QUOTED = re.compile(r"(?:\"[^\"]*\"|'[^']*'|“[^”]*”|„[^“”]*[“”]|‘[^’]*’|«[^»]*»|`[^`]*`),?")
_RULE = re.compile(r"[-=_*~`+#|:.\s–—]+")
"""A line that separates others: of Markdown, of its tables, of front matter, around code."""


class LineError(ValueError):
    """One line is invalid; the message says why."""


class Line(NamedTuple):
    """One line that asks for a video.

    Attributes:
        number: Its number in the file, from 1.
        values: The options that it gives; a LineError if the line cannot be read.
    """

    number: int
    values: dict[str, Any] | LineError


@dataclass
class Remarks:
    """Things in a file that may have been read in another way than they were meant.

    Attributes:
        ignored: Names of columns and fields that are notes.
        marked: Prompts that begin with the mark of a list, are quoted or contain a tab, as (line, prompt).
        rounded: Seeds that a spreadsheet may have rounded, as (line, seed).
    """

    ignored: dict[str, None] = field(default_factory=dict)
    marked: list[tuple[int, str]] = field(default_factory=list)
    rounded: list[tuple[int, int]] = field(default_factory=list)

    def see_prompt(self, number: int, prompt: str) -> None:
        """Note a prompt that seems to contain more than a prompt."""
        if _MARK.match(prompt) or _QUOTED.fullmatch(prompt):
            self.marked.append((number, prompt))

    def sentences(self) -> Iterator[str]:
        """Yield the remarks, a sentence each."""
        if self.ignored:
            names = [name[:40] for name in [*self.ignored][:20]]
            yield f"ignored as notes, since they are not names of options: {', '.join(names)}"
        if self.marked:
            number, prompt = self.marked[0]
            yield (
                f"line {number}{_more(self.marked)}: list marks, quotation marks and tabs are read as part of the"
                f" prompt ({prompt[:30].strip()!r})"
            )
        if self.rounded:
            number, seed = self.rounded[0]
            yield f"line {number}{_more(self.rounded)}: a spreadsheet keeps 15 digits; check the seed {seed}"


def check_prompt(prompt: str) -> None:
    """Raise LineError for text that cannot be a prompt."""
    if prompt.strip() and _RULE.fullmatch(prompt):
        raise LineError(f"{prompt.strip()[:30]} is not a prompt but a line that separates others; remove it")


def _more(found: list[Any]) -> str:
    return f" and {len(found) - 1} more" if len(found) > 1 else ""
