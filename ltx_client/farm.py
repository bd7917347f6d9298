"""The Python API: everything that the `ltx` command does, without the terminal.

with Farm.connect() as farm:
    job = farm.submit(GenerationRequest(prompt="a red ball rolls to the right on a navy background"))
    for update in farm.watch(job.id):
        print(update.snapshot.stage, update.snapshot.step)
    farm.download(job.id, Path("ball.mp4"))
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from ltx_client.broker import broker_errors, connect
from ltx_client.errors import BrokerUnreachable, FarmError, JobConflict, JobNotFound, StorageUnreachable, UsageError
from ltx_client.inputs import Inputs
from ltx_client.ledger import ClientLedger, Submission
from ltx_client.local.join import join
from ltx_client.local.members import FarmFolder, Use
from ltx_client.prepare import DEFAULT_VARIANT, prepare
from ltx_client.protocol.jobs import Job, UnreadableJob, parse_job
from ltx_client.protocol.names import Names
from ltx_client.protocol.settings import FarmSettings, broker_address
from ltx_client.protocol.state import Snapshot, Status
from ltx_client.protocol.storage import Storage, StorageError, input_name
from ltx_client.protocol.transport import celery_settings, send_render
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.views import Follower, JobView, Update
from ltx_models.memory import memory_class
from ltx_models.request import GenerationRequest

__all__ = ["Farm"]

MIN_ID_TAIL = 4
log = logging.getLogger(__name__)

BLOCK = 1.0
"""Seconds that one wait for events takes."""
PATIENCE = 60.0
"""Seconds that a watcher goes on trying when the broker is away."""


class Farm:
    """One farm, reached through its broker. Raises BrokerUnreachable from every method when it does not answer."""

    def __init__(
        self,
        client: redis.Redis,
        broker_url: SecretStr,
        names: Names,
        storage_url: str | None,
        embedded: FarmFolder | None = None,
    ) -> None:
        self.storage_url = storage_url
        self._embedded = embedded
        self._client = client
        self._broker_url = broker_url
        self._address = broker_address(broker_url)
        self._names = names
        self._ledger = ClientLedger(client, names)

    @classmethod
    @contextlib.contextmanager
    def connect(
        cls, settings: FarmSettings | None = None, use: Use = Use.RENDER, variant: str = DEFAULT_VARIANT
    ) -> Iterator[Farm]:
        """The farm that the environment names; with no broker there, this machine's embedded farm.

        `use` and `variant` say what is needed of the embedded farm, which is started, and stopped when nobody uses it.
        """
        settings = settings or FarmSettings()
        with contextlib.ExitStack() as stack:
            embedded, broker_url, storage_url = None, settings.broker_url, settings.storage_url
            if broker_url is None:
                embedded = FarmFolder(settings.home)
                broker_url = stack.enter_context(join(settings.home, use, variant)).url
                storage_url = str(embedded.videos)
            client = stack.enter_context(connect(broker_url))
            yield cls(client, broker_url, settings.names, storage_url, embedded)

    def check(self) -> None:
        """Raises BrokerUnreachable when this machine's embedded farm has died; says nothing of other farms."""
        if self._embedded is not None and not self._embedded.is_kept():
            raise BrokerUnreachable(
                f"this machine's farm stopped unexpectedly (see {self._embedded.keeper_log}); its jobs are kept,"
                " and `ltx up` goes on with them"
            )

    def submit(self, request: GenerationRequest, **options: Any) -> Job:
        """Prepares a job (see `prepare` for the options) and sends it."""
        prepared = prepare(request, **options)
        self.send(*prepared)
        return prepared.job

    def send(self, job: Job, inputs: Inputs | None = None) -> None:
        """Stores the job's inputs, writes its record, which is the submission, then the message that brings it to a
        worker.

        Raises JobConflict when the id is another job's, StorageUnreachable when the inputs cannot be stored. After
        BrokerUnreachable the same job may be sent again.
        """
        self._store(inputs or {})
        try:
            with broker_errors(self._address):
                outcome = self._ledger.submit(job)
            if outcome is Submission.CONFLICT:
                raise JobConflict(f"job {job.id} exists already and asks for something else; give another --id")
            self._publish(job)
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{error} Whether job {job.id} was queued is unknown; the same again with --id {job.id} is safe"
            ) from None

    def watch(self, *job_ids: str) -> Iterator[Update]:
        """Every event of these jobs from the first on: each job's in order, none twice, whenever one joins;
        then the live ones, until all have ended.

        At least one update a second for each job, without an event when nothing happened.
        """
        followers = {job_id: Follower() for job_id in job_ids}
        last_answer = time.monotonic()
        while followers:
            self.check()
            try:
                batches = self._next_events({job_id: follower.seq for job_id, follower in followers.items()})
                views = {job_id: self.view(job_id) for job_id in followers}
            except BrokerUnreachable:
                if time.monotonic() - last_answer > PATIENCE:
                    raise
                time.sleep(BLOCK)
                continue
            last_answer = time.monotonic()
            for job_id, view in views.items():
                yield from followers[job_id].advance(batches.get(job_id, []), view)
                if followers[job_id].ended:
                    del followers[job_id]

    def view(self, job_id: str) -> JobView:
        """One job. Raises JobNotFound, and FarmError for a job of another protocol version."""
        try:
            views = self._views([job_id])
        except UnreadableJob as error:
            raise FarmError(f"job {job_id} cannot be read: {error}") from error
        if not views:
            raise JobNotFound(f"there is no job {job_id} on this farm; `ltx jobs` lists those that there are")
        return views[0]

    def jobs(self, limit: int = 50) -> list[JobView]:
        """The newest jobs first."""
        with broker_errors(self._address):
            ids: Any = self._client.zrevrange(self._names.jobs(), 0, limit - 1)
        return self._views([job_id.decode() for job_id in ids])

    def find(self, text: str) -> str:
        """The id of the job whose id is, or ends with, `text` (4 characters at least). Raises JobNotFound."""
        with broker_errors(self._address):
            if self._client.exists(self._names.job(text)):
                return text
            ids: Any = self._client.zrange(self._names.jobs(), 0, -1)
        found = [
            job_id for job_id in (raw.decode() for raw in ids) if len(text) >= MIN_ID_TAIL and job_id.endswith(text)
        ]
        if len(found) == 1:
            return str(found[0])
        if found:
            raise JobNotFound(f"{len(found)} jobs have an id that ends with {text}; give more of it")
        raise JobNotFound(f"there is no job {text} on this farm; `ltx jobs` lists those that there are")

    def cancel(self, job_id: str) -> Status:
        """Asks for the job's end; returns its state at that moment (see ClientLedger.cancel)."""
        with broker_errors(self._address):
            status = self._ledger.cancel(job_id)
        if status is None:
            raise JobNotFound(f"there is no job {job_id} on this farm; `ltx jobs` lists those that there are")
        return status

    def preview(self, job_id: str) -> bytes | None:
        """The newest checkpoint frame, a JPEG, or None while, or when no longer, there is one."""
        with broker_errors(self._address):
            jpeg: Any = self._client.get(self._names.preview(job_id))
        return jpeg if jpeg is None else bytes(jpeg)

    def download(self, job_id: str, target: Path) -> None:
        """Copies a finished job's MP4 to `target`, whole or not at all, its checksum verified.

        Raises UsageError when the job has no video, StorageUnreachable when the file cannot be had.
        """
        view = self.view(job_id)
        if view.snapshot.result is None:
            why = view.snapshot.error or "it can be downloaded when it is done"
            raise UsageError(f"job {job_id} has no video: it is {view.status}; {why}")
        if self.storage_url is None:
            raise FarmError(
                f"no storage is set, so the video of job {job_id} cannot be read; set LTX_STORAGE_URL as the workers do"
            )
        result = view.snapshot.result
        try:
            Storage(self.storage_url).get(result.video, target, result.sha256)
        except StorageError as error:
            raise StorageUnreachable(f"{error}; is LTX_STORAGE_URL the one that the workers use?") from error
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror}") from error

    def workers(self) -> list[WorkerInfo]:
        """The live workers, by name."""
        with broker_errors(self._address):
            keys = list(self._client.scan_iter(match=self._names.worker("*"), count=1000))
            with self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hgetall(key)
                hashes = pipeline.execute()
        views = [
            WorkerInfo.model_validate({key.decode(): value.decode() for key, value in fields.items()})
            for fields in hashes
            if fields
        ]
        return sorted(views, key=lambda worker: (worker.name, worker.id))

    def served(self, job: Job) -> bool:
        """Whether a live worker takes jobs like this one."""
        needed = memory_class(job.predicted_peak)
        return any(worker.variant == job.variant and worker.budget_gb >= needed for worker in self.workers())

    def _store(self, inputs: Inputs) -> None:
        """Puts files into the farm's storage under the name of their content; what is there already is not sent."""
        if not inputs:
            return
        if self.storage_url is None:
            raise UsageError(
                "pictures and clips travel through the farm's storage; set LTX_STORAGE_URL as the workers do"
            )
        try:
            storage = Storage(self.storage_url)
            for sha256, path in inputs.items():
                if not storage.exists(input_name(sha256)):
                    storage.put(path, input_name(sha256))
        except StorageError as error:
            raise StorageUnreachable(str(error)) from error

    def _publish(self, job: Job) -> None:
        """The Celery message. Imports Celery late: it takes half a second, and only a submit needs it."""
        import kombu.exceptions
        from celery import Celery

        settings = celery_settings(self._broker_url.get_secret_value(), self._names)
        with Celery("ltx_client", set_as_current=False) as app, broker_errors(self._address):
            app.conf.update(**settings, broker_connection_retry=False)
            try:
                send_render(app, job, job.priority)
            except kombu.exceptions.OperationalError as error:
                raise redis.ConnectionError(str(error.__cause__ or error)) from error

    def _next_events(self, after: dict[str, int]) -> dict[str, list[tuple[int, bytes]]]:
        """The numbered events of each job after the one that was seen last; waits a moment for the first."""
        streams: Any = {self._names.events(job_id): f"{seq}-0" for job_id, seq in after.items()}
        with broker_errors(self._address):
            reply: Any = self._client.xread(streams, count=200, block=round(BLOCK * 1000))
        ids = {self._names.events(job_id): job_id for job_id in after}
        return {
            ids[key.decode()]: [(int(entry.split(b"-")[0]), fields[b"event"]) for entry, fields in entries]
            for key, entries in reply or []
        }

    def _views(self, ids: list[str]) -> list[JobView]:
        names = self._names
        with broker_errors(self._address), self._client.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hmget(names.job(job_id), "spec", "submitted_at")
                pipeline.hget(names.state(job_id), "snapshot")
                pipeline.exists(names.cancel(job_id))
                pipeline.exists(names.lease(job_id))
            replies = iter(pipeline.execute())
        views = []
        for job_id, (spec, submitted_at), snapshot, cancel, lease in zip(
            ids, replies, replies, replies, replies, strict=True
        ):
            if spec is None:  # its time ran out
                continue
            try:
                job = parse_job(spec)
            except UnreadableJob as error:
                if len(ids) == 1:
                    raise
                log.warning("job %s is not shown: %s", job_id, error)
                continue
            views.append(
                JobView(
                    job=job,
                    submitted_at=int(submitted_at) / 1000,
                    snapshot=Snapshot() if snapshot is None else Snapshot.model_validate_json(snapshot),
                    cancel_asked=bool(cancel),
                    leased=bool(lease),
                )
            )
        return views
