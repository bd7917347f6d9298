"""Deliver finished MP4s and commit their jobs.

What cannot be delivered now waits in a spool folder, also over a restart:

spool/{attempt}/    video.mp4, sidecar.json, poster.jpg, delivery.json
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from pathlib import Path

import redis
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ltx_client.protocol import events
from ltx_client.protocol.events import Count, Result
from ltx_client.protocol.file_names import VIDEO, ResultFile, attempt_name
from ltx_client.protocol.jobs import JobId
from ltx_client.protocol.state import Snapshot
from ltx_client.shared.private_files import replace_file
from ltx_client.shared.storage.folder import flush
from ltx_client.shared.storage.store import DamagedSource, Storage, StorageError
from ltx_client.shared.unexpected_data import tell_once
from ltx_worker.attempt.attempt import Attempt, AttemptObserver
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.states import State
from ltx_worker.ledger.ledger import Claim, Ledger, StaleAttempt, Verdict
from ltx_worker.machine.probes import PROBE
from ltx_worker.threads.background import LONGEST_PAUSE, Background
from ltx_worker.threads.daemon import concurrently
from ltx_worker.threads.retrying import patiently
from ltx_worker.threads.watched import STORAGE_LIMIT, acquire, brief

__all__ = ["Delivery", "Spool", "spooled"]

log = logging.getLogger(__name__)

SWEEP_EVERY = 600.0
"""Seconds between two looks for resume points that workers have left which are gone."""
UNDELIVERABLE = (StorageError, redis.RedisError)
_NAME = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z-]{0,63}\.[0-9]+(\.[0-9a-f]+)?")
"""Of a folder that a worker makes in the spool. Whatever else lies there, somebody else has put there."""


class Delivery(BaseModel):
    """A finished video and the attempt that made it: all that its commit needs."""

    model_config = ConfigDict(frozen=True)

    job_id: JobId
    attempt: Count
    token: str = Field(pattern=r"^[0-9a-f]{32}$")
    result: Result

    @model_validator(mode="after")
    def _check_names(self) -> Delivery:
        """Refuse files that are not the attempt's."""
        stem = self.name if self.is_own(self.result.video) else f"{self.job_id}.{self.attempt}"
        if any(name != kind.name(stem) for kind, name in self.result.files.items()):
            raise ValueError("its files have the names of another attempt's")
        return self

    @property
    def name(self) -> str:
        """The attempt's name: of its folder in the spool, and of its files in the storage."""
        return attempt_name(self.job_id, self.attempt, self.token)

    def is_own(self, name: str) -> bool:
        """Return whether a file's name is this attempt's alone. One from before names had a token in them is not."""
        return name.startswith(f"{self.name}.")


class Spool(Background):
    """Delivers finished videos: at once when it can, else from a thread of its own until it could.

    retry_for: seconds that a delivery is tried again before it goes to that thread, while the worker's next job waits.
    look_every: seconds between that thread's tries, each of which renews the lease.
    sign_for: seconds that a link to the video holds; 0 for none.  own_link: makes one, where the storage cannot.
    observers: are told of the attempts whose videos have waited.
    """

    def __init__(
        self,
        folder: Path,
        storage: Storage,
        ledger: Ledger,
        points: ResumePoints,
        *,
        retry_for: float,
        look_every: float,
        sign_for: int = 0,
        own_link: Callable[[str, int], str | None] | None = None,
        observers: Sequence[AttemptObserver] = (),
    ) -> None:
        super().__init__("spool", limit=STORAGE_LIMIT + look_every, longest_pause=min(LONGEST_PAUSE, look_every))
        self._folder = folder
        self._storage = storage
        self._ledger = ledger
        self._points = points
        self._retry_for = retry_for
        self._look_every = look_every
        self._sign_for = sign_for
        self._own_link = own_link
        self._observers = observers
        self._attempts: dict[str, Attempt] = {}
        """By the names of their folders, as far as this worker has had them in hand."""
        self._busy = threading.Lock()
        self._sweep_at = 0.0
        with contextlib.suppress(OSError):  # as on a full disk: it is tried again in each cycle
            folder.mkdir(parents=True, exist_ok=True)

    def waiting(self) -> int:
        """Return how many finished videos are not delivered yet."""
        return len(spooled(self._folder)[0])

    def deliver(self, attempt: Attempt, files: Mapping[ResultFile, Path], result: Result) -> None:
        """Take the files, store them and commit the job; what fails for now is left to the spool's thread.

        The files of an attempt that was the current one a moment ago are stored without asking once more, while the
        last of its events are published.

        Raise StaleAttempt when the attempt is over, and OSError where this machine cannot keep the files.
        """
        sure = attempt.is_rendered and attempt.keeper.is_wanted
        delivery = Delivery(job_id=attempt.job_id, attempt=attempt.number, token=attempt.claim.token, result=result)
        folder = self._folder / delivery.name
        with self._alone():
            delivery = self._take(delivery, files)
            self._attempts[folder.name] = attempt
            try:
                self._deliver_taken(folder, delivery, attempt, sure=sure)
            except StaleAttempt:
                attempt.lose()  # before the spool's thread looks at its folder
                raise

    def _deliver_taken(self, folder: Path, delivery: Delivery, attempt: Attempt, *, sure: bool) -> None:
        try:
            self._try(folder, delivery, attempt, sure=sure)
            return
        except UNDELIVERABLE as error:
            log.warning("job %s: not delivered, trying again: %s", attempt.job_id, error)
        if sure:
            attempt.rendering.publisher.finish()
        try:
            patiently(UNDELIVERABLE, self._stopped, self._retry_for)(self._try_again, folder, delivery, attempt)
        except UNDELIVERABLE as error:
            log.warning("job %s: kept in the spool: %s", attempt.job_id, error)
            if attempt.is_over:  # and only its files could not be removed
                return
            # If Redis is what is away, nobody can be told. If the attempt is stale, its commit may have landed without
            # an answer: the next try finds out.
            with contextlib.suppress(redis.RedisError, StaleAttempt):
                self._ledger.emit(attempt.claim, events.Delayed(reason=str(error)))
            attempt.to(State.SPOOLED)

    def _take(self, delivery: Delivery, files: Mapping[ResultFile, Path]) -> Delivery:
        """Move the files into the spool; delivery.json is written last, so a folder without it is incomplete.

        Return the delivery, without an optional file that could not be moved.

        Raises:
            OSError: The files could not be moved; nothing is left in the spool then.
        """
        folder = self._folder / delivery.name
        folder.mkdir(parents=True)
        try:
            for kind in delivery.result.files:
                try:
                    shutil.move(files[kind], folder / kind.local)
                    flush(str(folder / kind.local))
                except OSError as error:
                    if not kind.optional:
                        raise
                    delivery = delivery.model_copy(update={"result": _left_out(delivery.result, kind, error)})
            replace_file(folder / "delivery.json", delivery.model_dump_json())  # the token in it is the right to write
            flush(str(folder))
            return delivery
        except BaseException:  # also the worker's end: half a delivery must not be taken for one
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _try(self, folder: Path, delivery: Delivery, attempt: Attempt, *, sure: bool = False) -> None:
        """Store and commit. Raise UNDELIVERABLE errors, and StaleAttempt after removing what was stored.

        A video that was damaged in the spool, as by a power cut, can never be stored: its job goes back to the queue.
        """
        result = delivery.result
        try:
            if sure or self._ledger.renew(attempt.claim) is not Verdict.CANCEL:
                result = self._store(folder, result)
                if sure:
                    attempt.rendering.publisher.finish()
                done = events.Done(result=result.model_copy(update=self._links(result)))
                if attempt.commit(done) is Verdict.CONTINUE:
                    shutil.rmtree(folder)
                    return
            attempt.commit(events.Cancelled())
        except DamagedSource as error:
            if sure:
                attempt.rendering.publisher.finish()
            log.error("job %s: its video is rendered again: %s", delivery.job_id, error)
            attempt.release(f"the finished video was damaged before it was stored: {error}")
        except StaleAttempt:
            if self._has_landed(folder, attempt):
                return
            self._discard(folder, delivery)
            raise
        self._discard(folder, delivery)

    def _has_landed(self, folder: Path, attempt: Attempt) -> bool:
        """Return whether a stale attempt is its job's result: its commit's answer was lost, or a worker died on it."""
        if not self._ledger.is_result(attempt.claim):
            return False
        attempt.to(State.DONE)
        shutil.rmtree(folder)
        return True

    def _store(self, folder: Path, result: Result) -> Result:
        """Store the video and what lies beside it; never leave a sidecar or a poster without their video.

        A local folder takes them concurrently, so that the disk is waited for once. Other storages may have one
        connection only, and take one after the other.

        Returns:
            The result, without an optional file that could not be stored: a finished video does not wait for one.
        """
        if self._storage.local_folder is None:
            self._storage.put(folder / VIDEO.local, result.video, result.sha256)
            return self._store_rest(folder, result)
        rest = concurrently("sidecar", self._store_rest, folder, result)
        try:
            self._storage.put(folder / VIDEO.local, result.video, result.sha256)
        except (StorageError, DamagedSource):
            wait([rest])
            for kind, name in result.files.items():
                if kind is not VIDEO:
                    with contextlib.suppress(StorageError):
                        self._storage.remove(name)
            raise
        return rest.result()

    def _store_rest(self, folder: Path, result: Result) -> Result:
        for kind, name in result.files.items():
            if kind is VIDEO:
                continue
            try:
                self._storage.put(folder / kind.local, name, getattr(result, kind.sha256) if kind.sha256 else None)
            except (StorageError, DamagedSource) as error:
                if not kind.optional:
                    raise
                result = _left_out(result, kind, error)
        return result

    def _try_again(self, folder: Path, delivery: Delivery, attempt: Attempt) -> None:
        """Do the same after a try that may have left part of a file, which could not be removed then."""
        if attempt.is_over:
            self._clear(folder, delivery, attempt)
            return
        if attempt.state is not State.DELIVERING:
            attempt.to(State.DELIVERING)
        try:
            for name in delivery.result.files.values():
                self._storage.remove_unfinished(name)
        except StorageError:
            try:
                if self._ledger.renew(attempt.claim) is Verdict.CANCEL:  # else the job stays this worker's
                    attempt.commit(events.Cancelled())
            except StaleAttempt:
                if self._has_landed(folder, attempt):
                    return
                raise
            raise
        self._try(folder, delivery, attempt)

    def _links(self, result: Result) -> dict[str, str | None]:
        """Return download links for clients without access to the storage, by the fields of `result`."""
        return {kind.link: self._link(name) for kind, name in result.files.items() if kind.link}

    def _link(self, name: str) -> str | None:
        """Return a file's download link, or None if none can be signed: a video without one is better than no video."""
        if not self._sign_for:
            return None
        try:
            if link := self._storage.sign(name, self._sign_for):
                return link
            return self._own_link(name, self._sign_for) if self._own_link else None
        except StorageError as error:
            log.warning("%s", error)
            return None

    def _discard(self, folder: Path, delivery: Delivery) -> None:
        """Remove what this attempt has stored, and nothing that may be another attempt's.

        Files of older versions are left, since another attempt may have the same names.

        Raises:
            StorageError: The storage is away; the spool's thread tries again.
        """
        for name in filter(delivery.is_own, delivery.result.files.values()):
            self._storage.remove(name)
        shutil.rmtree(folder)

    def _clear(self, folder: Path, delivery: Delivery, attempt: Attempt) -> None:
        """Remove what an attempt has left that ended before: from the storage, too, unless it is the job's result."""
        if attempt.state is State.DONE or self._ledger.is_result(attempt.claim):
            shutil.rmtree(folder)
        else:
            self._discard(folder, delivery)

    def _cycle(self) -> None:
        with self._alone():
            self._folder.mkdir(parents=True, exist_ok=True)
            folders, strange = spooled(self._folder)
            self._attempts = {path.name: self._attempts[path.name] for path in folders if path.name in self._attempts}
            for path in strange:
                tell_once(f"{path} is set aside: it is nothing that a worker has put into the spool; remove it")
            for folder in folders:
                try:
                    self._deliver_kept(folder)
                except Exception as error:  # noqa: BLE001 - the others must not wait for this one
                    self._note(error)
                    tell_once(f"{folder} is set aside: {brief(error)}")
                self._beat()
        if time.monotonic() >= self._sweep_at:
            self._points.sweep()
            self._sweep_at = time.monotonic() + SWEEP_EVERY
        self._stopped.wait(self._look_every)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        acquire(self._busy)
        try:
            yield
        finally:
            self._busy.release()

    def _deliver_kept(self, folder: Path) -> None:
        """Deliver what lies in a folder. Raise OSError, and ValueError for a note that no worker has written."""
        note = folder / "delivery.json"
        if not note.exists():
            log.warning("%s is incomplete; its job is rendered again", folder)
            shutil.rmtree(folder)
            return
        delivery = Delivery.model_validate_json(note.read_bytes())
        if folder.name not in (delivery.name, f"{delivery.job_id}.{delivery.attempt}"):  # which older versions gave
            raise ValueError(f"its delivery.json is of {delivery.name}")
        attempt = self._spooled_attempt(folder, delivery)
        try:
            if not attempt.is_over:
                self._ledger.refresh(attempt.claim)
            self._try_again(folder, delivery, attempt)
        except StaleAttempt:
            log.warning("job %s: its video came too late; another attempt has taken over", delivery.job_id)
            attempt.lose()
        except UNDELIVERABLE as error:
            self._note(error)
            log.debug("job %s: still in the spool: %s", delivery.job_id, error)
            if attempt.state is State.DELIVERING or attempt.state is State.COMMITTING:
                attempt.to(State.SPOOLED)
        else:
            log.info("job %s: delivered from the spool", delivery.job_id)

    def _spooled_attempt(self, folder: Path, delivery: Delivery) -> Attempt:
        """Return the attempt whose video is in a folder of the spool.

        It is a new object, as after a restart, unless the attempt is known to be over and only its files could not be
        removed. One that was dropped, for an unexpected error, is not over for the ledger: its video is still good.
        """
        known = self._attempts.get(folder.name)
        if known is not None and known.is_over and known.state is not State.DROPPED:
            return known
        claim = Claim(delivery.job_id, delivery.attempt, delivery.token, Snapshot())
        attempt = Attempt(claim, self._ledger, observers=self._observers, state=State.SPOOLED)
        self._attempts[folder.name] = attempt
        return attempt


def _left_out(result: Result, kind: ResultFile, error: Exception) -> Result:
    log.warning("%s is left out, and the video goes on without it: %s", getattr(result, kind.field), brief(error))
    return result.without(kind)


def spooled(spool: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of finished videos in a spool, and what else lies there but a probe. Raise OSError."""
    kept: list[Path] = []
    strange: list[Path] = []
    for path in sorted(spool.iterdir()) if spool.exists() else ():
        if path.name.startswith(PROBE):
            continue
        is_ours = _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        (kept if is_ours else strange).append(path)
    return kept, strange
