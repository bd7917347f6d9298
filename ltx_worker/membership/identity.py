"""Identify this worker: its machine's id, its process's run, and a new id when another machine uses the same one."""

from __future__ import annotations

import logging
import secrets
import uuid
from pathlib import Path

from ltx_client.shared.private_files import read_word, write_private
from ltx_client.shared.settings import FarmSettings
from ltx_worker.settings import machine_id

__all__ = ["Identity"]

log = logging.getLogger(__name__)


class Identity:
    """A worker's id, and the run of its process.

    When a disk is cloned, so is the id. A worker's record on the broker therefore names the run that wrote it. While
    the record exists, no other run writes it, except the next one of the same LTX_HOME, which knows the former run. A
    worker that sees another run's record change has found a second owner of its id, and draws a new id. The first
    owner, whose record stays, never sees the other.

    Attributes:
        worker_id: the id, kept in LTX_HOME.
        run: the id of this process's run.
        former_run: the last run of the same LTX_HOME, or "".
        drew_for: the id that this run replaced by a new one, or "".
    """

    def __init__(self, settings: FarmSettings) -> None:
        self._settings = settings
        self.worker_id = machine_id(settings)
        self.run = secrets.token_hex(8)
        self.drew_for = ""
        path = settings.home / "worker.run"
        self.former_run = read_word(path)
        _write(path, self.run)
        self._seen: bytes | None = None

    def meets(self, record: bytes | None) -> bool:
        """Return whether another machine has the same id, because its record has changed since the last call.

        Args:
            record: the record found under this worker's id, or None if it is this worker's own.
        """
        met = record is not None and self._seen is not None and record != self._seen
        self._seen = record
        return met

    def draw(self) -> None:
        """Replace the id by a new one, permanently."""
        self.drew_for, self.worker_id = self.worker_id, uuid.uuid4().hex
        self._seen, self.former_run = None, ""
        _write(self._settings.home / "machine-id", self.worker_id)
        log.warning(
            "another machine uses this one's id %s, as after its disk was cloned; this worker is %s from now on",
            self.drew_for,
            self.worker_id,
        )


def _write(path: Path, text: str) -> None:
    """Write a file atomically; if that fails, for example on a full disk, another start writes it."""
    try:
        write_private(path, text + "\n")
    except OSError as error:
        log.warning("cannot write %s: %s", path, error)
