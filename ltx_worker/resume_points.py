"""What attempts leave for the next: in Redis, or, where that is too much for Redis, as a file of the farm's storage.

resume/{job}.{attempt}.0, .1    written in turn, so that the one that `latents:{job}` names is always whole
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from ltx_client.protocol.storage import Storage, StorageError
from ltx_worker.ledger import Attempt, Ledger

__all__ = ["ResumePoints"]

log = logging.getLogger(__name__)

FOLDER = "resume"


class _Pointer(BaseModel):
    """Stands in Redis for a resume point that lies in the storage."""

    model_config = ConfigDict(frozen=True)

    file: str
    sha256: str


class ResumePoints:
    """Saves and finds them. max_in_redis: bytes, above which one goes into the storage.  work: a local folder."""

    def __init__(self, ledger: Ledger, storage: Storage, work: Path, max_in_redis: int) -> None:
        self._ledger = ledger
        self._storage = storage
        self._work = work
        self._max_in_redis = max_in_redis
        self._written: dict[str, int] = {}
        self.has_files = False
        """Whether a file was written or read since the last sweep."""

    def save(self, attempt: Attempt, resume_point: bytes) -> None:
        """Keeps it in place of the one before. Raises StaleAttempt, redis.RedisError and StorageError."""
        if len(resume_point) <= self._max_in_redis:
            self._ledger.save(attempt, resume_point)
            return
        self.has_files = True
        count = self._written.get(attempt.token, 0)
        name = f"{FOLDER}/{attempt.job_id}.{attempt.number}.{count % 2}"
        with tempfile.NamedTemporaryFile(dir=self._work) as file:
            file.write(resume_point)
            file.flush()
            self._storage.put(Path(file.name), name)
        pointer = _Pointer(file=name, sha256=hashlib.sha256(resume_point).hexdigest())
        self._ledger.save(attempt, pointer.model_dump_json().encode())
        self._written = {attempt.token: count + 1}

    def load(self, job_id: str) -> bytes | None:
        """The newest resume point of a job. Raises redis.RedisError; where the storage fails, there is none."""
        saved = self._ledger.saved(job_id)
        if saved is None or not saved.startswith(b"{"):
            return saved
        self.has_files = True
        try:
            pointer = _Pointer.model_validate_json(saved)
        except ValidationError:
            log.warning("job %s: it begins again, for where its resume point lies cannot be read", job_id)
            return None
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            target = Path(folder) / "resume"
            try:
                self._storage.get(pointer.file, target, pointer.sha256)
            except StorageError as error:
                log.warning("job %s: it begins again, for what was done is out of reach: %s", job_id, error)
                return None
            return target.read_bytes()

    def sweep(self) -> None:
        """Removes the files of jobs that have ended, as far as they can be removed now."""
        self.has_files = False
        try:
            for name in {*self._storage.names(FOLDER), *self._storage.unfinished(FOLDER)}:
                if self._ledger.has_ended(name.partition(".")[0]):
                    self._storage.remove(f"{FOLDER}/{name}")
                    self._storage.remove_unfinished(f"{FOLDER}/{name}")
        except (StorageError, redis.RedisError) as error:
            log.warning("resume points of ended jobs are left for now: %s", error)
