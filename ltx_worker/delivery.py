"""From a finished MP4 to a committed job. What cannot be delivered now waits in a spool folder, also over a restart.

spool/{job}.{attempt}/    video.mp4, sidecar.json, delivery.json
"""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.state import Snapshot
from ltx_client.protocol.storage import Storage, StorageError
from ltx_worker.ledger import Attempt, Ledger, StaleAttempt, Verdict
from ltx_worker.patience import AWAY, patiently

__all__ = ["Delivery", "Spool"]

log = logging.getLogger(__name__)

UNDELIVERABLE = (StorageError, *AWAY)


class Delivery(BaseModel):
    """A finished video and the attempt that made it: all that its commit needs."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    attempt: int
    token: str
    snapshot: Snapshot
    result: Result

    @property
    def name(self) -> str:
        """The name of its folder in the spool."""
        return f"{self.job_id}.{self.attempt}"


class Spool:
    """Delivers finished videos: at once when it can, else from a thread of its own until it could.

    retry_for: seconds that a delivery is tried again before it goes to that thread, while the worker's next job waits.
    look_every: seconds between that thread's tries, each of which renews the lease.
    """

    def __init__(self, folder: Path, storage: Storage, ledger: Ledger, *, retry_for: float, look_every: float) -> None:
        self._folder = folder
        self._storage = storage
        self._ledger = ledger
        self._retry_for = retry_for
        self._look_every = look_every
        self._busy = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Begins to deliver what is in the spool, from before a restart too."""
        self._thread.start()

    def stop(self) -> None:
        """Leaves what is not delivered where it is."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def deliver(self, attempt: Attempt, video: Path, sidecar: Path, result: Result) -> None:
        """Takes the files, stores them and commits the job; what fails for now is left to the spool's thread.

        Raises StaleAttempt when the attempt is over.
        """
        delivery = Delivery(
            job_id=attempt.job_id, attempt=attempt.number, token=attempt.token, snapshot=attempt.snapshot, result=result
        )
        with self._busy:
            self._take(delivery, video, sidecar)
            try:
                patiently(UNDELIVERABLE, self._stopped, self._retry_for)(self._try, delivery, attempt)
            except UNDELIVERABLE as error:
                log.warning("job %s: kept in the spool: %s", attempt.job_id, error)
                self._tell(delivery, attempt, str(error))

    def _take(self, delivery: Delivery, video: Path, sidecar: Path) -> None:
        """Moves the files into the spool; a folder without delivery.json, which is written last, is incomplete."""
        folder = self._folder / delivery.name
        folder.mkdir()
        shutil.move(video, folder / "video.mp4")
        shutil.move(sidecar, folder / "sidecar.json")
        self._note(delivery)

    def _note(self, delivery: Delivery) -> None:
        folder = self._folder / delivery.name
        temporary = folder / "delivery.tmp"
        temporary.write_text(delivery.model_dump_json())
        temporary.replace(folder / "delivery.json")

    def _try(self, delivery: Delivery, attempt: Attempt) -> None:
        """Stores and commits. Raises UNDELIVERABLE errors, and StaleAttempt after removing what it stored."""
        folder, result = self._folder / delivery.name, delivery.result
        try:
            if self._ledger.renew(attempt) is Verdict.GO_ON:
                self._storage.put(folder / "video.mp4", result.video)
                self._storage.put(folder / "sidecar.json", result.sidecar)
                if self._ledger.commit(attempt, events.Done(result=result)) is Verdict.GO_ON:
                    shutil.rmtree(folder)
                    return
            self._ledger.commit(attempt, events.Cancelled())
        except StaleAttempt:
            self._discard(delivery)
            raise
        self._discard(delivery)

    def _discard(self, delivery: Delivery) -> None:
        shutil.rmtree(self._folder / delivery.name)
        for name in (delivery.result.video, delivery.result.sidecar):
            try:
                self._storage.remove(name)
            except StorageError as error:
                log.warning("job %s: %s", delivery.job_id, error)

    def _tell(self, delivery: Delivery, attempt: Attempt, reason: str) -> None:
        """Notes in the job's state that it waits; not at all if Redis is what is away."""
        try:
            self._ledger.emit(attempt, events.Delayed(reason=reason))
        except AWAY:
            return
        self._note(delivery.model_copy(update={"snapshot": attempt.snapshot}))

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._busy:
                for folder in sorted(self._folder.iterdir()):
                    self._deliver_kept(folder)
            self._stopped.wait(self._look_every)

    def _deliver_kept(self, folder: Path) -> None:
        note = folder / "delivery.json"
        if not note.exists():
            log.warning("%s is incomplete; its job is rendered again", folder)
            shutil.rmtree(folder)
            return
        delivery = Delivery.model_validate_json(note.read_text())
        attempt = Attempt(delivery.job_id, delivery.attempt, delivery.token, delivery.snapshot)
        try:
            self._try(delivery, attempt)
        except StaleAttempt:
            log.warning("job %s: its video came too late; another attempt has taken over", delivery.job_id)
        except UNDELIVERABLE as error:
            log.info("job %s: still in the spool: %s", delivery.job_id, error)
        else:
            log.info("job %s: delivered from the spool", delivery.job_id)
