"""Text that somebody else wrote, as a terminal or a log may be given it.

A terminal obeys what is in a text: an escape sequence moves the cursor, sets the clipboard or the window's title; a
bidirectional control shows `gpj.exe` as `exe.jpg`; a line break begins a line that looks like one of ours.
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
    r"\ud800-\udfff"  # lone surrogates, which stand for bytes that were no UTF-8
    r"\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
"""Controls, and formats that show nothing. Not those that show, around Arabic numbers; and not the two joiners, with
which words of Persian and of India are written, and most emoji of several people.
"""
_BREAKS = re.compile(f"[{_BREAK}]")
_CONTROLS = re.compile(f"[{_CONTROL}]")
_IN_LINES = re.compile(f"(?!\n)[{_CONTROL}\u2028\u2029]")


def printable(text: str, *, lines: bool = False) -> str:
    """Return the text with a space for each break, and a replacement character for each other control.

    What comes is as long as the text.  lines: keep line feeds, in a text whose lines are our own.
    """
    if text.isascii() and text.isprintable():
        return text
    if lines:
        return "\n".join(printable(line) for line in text.split("\n"))
    return _CONTROLS.sub(REPLACEMENT, _BREAKS.sub(" ", text))


def shown(text: str, *, lines: bool = False) -> str:
    """Return a text as it may be shown: without secrets and controls.  lines: its line feeds are our own, and stay."""
    return printable(redacted(text), lines=lines)


def is_printable(text: str) -> bool:
    """Return whether `printable` would leave the text as it is."""
    return printable(text) == text


def json_text(data: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return data as JSON that a terminal can be given: the same data, its controls written as `\\uXXXX`; with
    ascii_only, all that is not ASCII.
    """
    return _IN_LINES.sub(_escaped, json.dumps(data, indent=indent, ensure_ascii=ascii_only))


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]
