"""Which worker this is: its machine's id, the run of its process, and what is done when another machine has that id."""

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
    """Disks are cloned, and an id with them. A worker's record on the broker therefore says which run of a process
    wrote it, and is written by no other run while it is there, but by the next one of the same LTX_HOME, which knows
    what the last one was. Who sees the record of another run change has met a second holder, and draws a new id: the
    first holder, whose record stays, never sees the other.

    worker_id: kept in LTX_HOME.  run: of this process.  former_run: the last one of the same LTX_HOME, or empty.
    drew_for: the id that this run gave up, or empty.
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
        """Whether what was found in the place of this worker's own record, None where it is its own, means that another
        machine has the same id: it has changed since it was last found.
        """
        met = record is not None and self._seen is not None and record != self._seen
        self._seen = record
        return met

    def draw(self) -> None:
        """Takes a new id, for good."""
        self.drew_for, self.worker_id = self.worker_id, uuid.uuid4().hex
        self._seen, self.former_run = None, ""
        _write(self._settings.home / "machine-id", self.worker_id)
        log.warning(
            "another machine uses this one's id %s, as after its disk was cloned; this worker is %s from now on",
            self.drew_for,
            self.worker_id,
        )


def _write(path: Path, text: str) -> None:
    """Whole, on the disk, or not at all: on a full disk it is written at another start."""
    try:
        write_private(path, text + "\n")
    except OSError as error:
        log.warning("cannot write %s: %s", path, error)
