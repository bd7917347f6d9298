"""What attempts leave for the next: in Redis, or, where that is too much for Redis, as a file of the farm's storage.

resume/{attempt}.0, .1    written in turn, so that the one that `latents:{job}` names is always whole
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import redis
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltx_client.protocol.file_names import RESUME
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.storage.store import Storage, StorageError
from ltx_models.resume_point import LARGEST
from ltx_worker.ledger.ledger import Claim, Ledger

__all__ = ["ResumePoints"]

log = logging.getLogger(__name__)

FOLDER = "resume"


class _Pointer(BaseModel):
    """Stands in Redis for a resume point that lies in the storage."""

    model_config = ConfigDict(frozen=True)

    file: str = Field(max_length=200)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def is_of(self, job_id: str) -> bool:
        """Return whether it leads to a resume point of that job."""
        folder, _, name = self.file.partition("/")
        match = RESUME.fullmatch(name)
        return folder == FOLDER and match is not None and match["job"] == job_id


class ResumePoints:
    """Saves and finds resume points.

    max_in_redis: bytes, above which one goes into the storage.  work: a local folder.
    """

    def __init__(self, ledger: Ledger, storage: Storage, work: Path, max_in_redis: int) -> None:
        self._ledger = ledger
        self._storage = storage
        self._work = work
        self._max_in_redis = max_in_redis
        self._written: dict[str, int] = {}
        self.has_files = False
        """Whether a file was written or read since the last sweep."""

    def save(self, claim: Claim, resume_point: bytes) -> None:
        """Keep it in place of the one before. Raise StaleAttempt, redis.RedisError and StorageError."""
        if len(resume_point) <= self._max_in_redis:
            self._ledger.save(claim, resume_point)
            return
        self.has_files = True
        count = self._written.get(claim.token, 0)
        name = f"{FOLDER}/{claim.name}.{count % 2}"
        with tempfile.NamedTemporaryFile(dir=self._work) as file:
            file.write(resume_point)
            file.flush()
            self._storage.put(Path(file.name), name)
        pointer = _Pointer(file=name, sha256=hashlib.sha256(resume_point).hexdigest())
        self._ledger.save(claim, pointer.model_dump_json().encode())
        self._written = {claim.token: count + 1}

    def load(self, job_id: str, tell: Callable[[str], object] = str) -> bytes | None:
        """Return the newest resume point of a job; none where there is no right one, or the storage fails.

        tell: gets the reason, in a few words, where the render begins again though something was saved.
        Raise redis.RedisError while the broker is away.
        """
        try:
            return self._load(job_id)
        except redis.ResponseError as error:
            if is_outage(error):
                raise
            why = f"what was saved cannot be read: {error}"
        except ValidationError:
            why = "where its resume point lies cannot be read"
        except StorageError as error:
            why = f"what was done is out of reach: {error}"
        log.warning("job %s: it begins again, for %s", job_id, why)
        tell(why)
        return None

    def _load(self, job_id: str) -> bytes | None:
        saved = self._ledger.saved(job_id)
        if saved is not None and len(saved) > LARGEST:
            raise StorageError(f"it has {len(saved):,} bytes, which no resume point has")
        if saved is None or not saved.startswith(b"{"):
            return saved
        self.has_files = True
        pointer = _Pointer.model_validate_json(saved)
        if not pointer.is_of(job_id):
            raise StorageError("its resume point is said to lie where none of this job's does")
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            target = Path(folder) / "resume"
            self._storage.get(pointer.file, target, pointer.sha256, LARGEST)
            return target.read_bytes()

    def sweep(self) -> None:
        """Remove the files of jobs that have ended, as far as they can be removed now, and are this farm's."""
        self.has_files = False
        try:
            names = {*self._storage.names(FOLDER), *self._storage.unfinished(FOLDER)}
            matches = [match for name in sorted(names) if (match := RESUME.fullmatch(name))]
            owners = self._ledger.ownership(match["job"] for match in matches)
            for match in matches:
                owner = owners.get(match["job"])
                if owner and owner.ended and (match["token"] is None or match["token"] in owner.granted):
                    self._storage.remove(f"{FOLDER}/{match.string}")
                    self._storage.remove_unfinished(f"{FOLDER}/{match.string}")
        except (StorageError, redis.RedisError) as error:
            log.warning("resume points of ended jobs are left for now: %s", error)
