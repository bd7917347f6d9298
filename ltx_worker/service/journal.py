"""Format log lines for systemd's journal: each with its priority, without the time, which the journal adds."""

from __future__ import annotations

import logging
import os
from typing import IO, Any

from ltx_client.shared.console.stdio import LineFormatter

__all__ = ["JournalFormatter", "is_journal"]

PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
"""Syslog's priorities by the level of `logging` (sd-daemon(3))."""


class JournalFormatter(LineFormatter):
    """Formats records as the journal reads them."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, or several, each with the record's priority before it."""
        level = max((level for level in PRIORITIES if level <= record.levelno), default=logging.DEBUG)
        return "\n".join(f"<{PRIORITIES[level]}>{line}" for line in super().format(record).split("\n"))


def is_journal(stream: IO[Any]) -> bool:
    """Return whether a stream is systemd's journal, which JOURNAL_STREAM names (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
