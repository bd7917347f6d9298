"""Clean text that somebody else wrote, so that it is safe for a terminal or a log.

A terminal obeys control characters in a text: an escape sequence moves the cursor or sets the clipboard or the window's
title; a bidirectional control shows `gpj.exe` as `exe.jpg`; a line break begins a line that looks like one of ours.
"""

from __future__ import annotations

import json
import re

from ltx_client.protocol.redaction import redacted

__all__ = ["is_printable", "json_text", "printable", "shown"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BREAK = r"\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029"
_CONTROL = (
    r"\0-\x1f\x7f-\x9f"  # C0, DEL and C1
    r"\ud800-\udfff"  # lone surrogates, which represent bytes that are not UTF-8
    r"\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
"""Control characters, and format characters that are not visible.

Neither the visible ones, around Arabic numbers, nor the two joiners, with which words of Persian and of languages of
India are written, and most emoji of several people.
"""
_BREAKS = re.compile(f"[{_BREAK}]")
_CONTROLS = re.compile(f"[{_CONTROL}]")
_IN_LINES = re.compile(f"(?!\n)[{_CONTROL}\u2028\u2029]")


def printable(text: str, *, lines: bool = False) -> str:
    """Return the text with a space for each line break, and a replacement character for each other control.

    The result is as long as the text.

    Args:
        text: The text.
        lines: Whether to keep line feeds, for a text whose lines are our own.
    """
    if text.isascii() and text.isprintable():
        return text
    if lines:
        return "\n".join(printable(line) for line in text.split("\n"))
    return _CONTROLS.sub(REPLACEMENT, _BREAKS.sub(" ", text))


def shown(text: str, *, lines: bool = False) -> str:
    """Return a text without secrets and controls.

    Args:
        text: The text.
        lines: Whether to keep line feeds, for a text whose lines are our own.
    """
    return printable(redacted(text), lines=lines)


def is_printable(text: str) -> bool:
    """Return whether `printable` would leave the text as it is."""
    return printable(text) == text


def json_text(data: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    r"""Return data as JSON that is safe for a terminal: the same data, with controls written as `\uXXXX`.

    Args:
        data: What `json.dumps` takes.
        indent: As `json.dumps` takes it.
        ascii_only: Whether to escape everything that is not ASCII.
    """
    return _IN_LINES.sub(_escaped, json.dumps(data, indent=indent, ensure_ascii=ascii_only))


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]
