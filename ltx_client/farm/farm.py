"""The Python API: everything that the `ltx` command does, without the terminal.

    with Farm() as farm:
        farm.render("a red ball rolls to the right on a navy background").wait().download("ball.mp4")

`Farm.render` gives a handle on one job (`ltx_client.farm.render`); the other methods take jobs by their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ltx_client.farm.batches import Batch, PreparedBatch
from ltx_client.farm.connection import Connection
from ltx_client.farm.jobs.forecast import Paces, Place, Turns
from ltx_client.farm.jobs.inputs import Inputs
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.farm.render import Render, ids_of
from ltx_client.farm.retention import Old, Removed
from ltx_client.protocol.jobs import DEFAULT_PRIORITY, NO_LINKS, Job, Links
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.broker.exchange import Exchange, run, stream
from ltx_client.shared.storage.store import Storage
from ltx_models.families.variants import DEFAULT_VARIANT
from ltx_models.request import GenerationRequest

__all__ = ["Farm"]

T = TypeVar("T")


class Farm(Connection):
    """One farm, reached through its broker. Raises BrokerUnreachable from every method when it does not answer."""

    def render(
        self,
        prompt: str,
        *,
        after: Sequence[Render | str] = (),
        not_on: Sequence[str] = (),
        variant: str = DEFAULT_VARIANT,
        priority: int = DEFAULT_PRIORITY,
        checkpoint_every: int = 3,
        time_limit: float | None = None,
        job_id: str | None = None,
        **fields: Any,
    ) -> Render:
        """Submits a job and returns a handle on it, at once.

        after: jobs, or ids of jobs and batches, that must have ended first.  not_on: names or ids of workers that leave
        it to others.  fields: of `GenerationRequest`, such as width, height, num_frames, num_steps or seed; what is not
        given is the variant's own value.
        Raises UsageError, InvalidRequest and what `send` raises.
        """
        job = self._run(
            self._operations.render(
                prompt,
                ids_of(after),
                not_on,
                fields,
                variant=variant,
                priority=priority,
                checkpoint_every=checkpoint_every,
                time_limit=time_limit,
                job_id=job_id,
            )
        )
        return Render(self, job.id)

    def job(self, job_id: str) -> Render:
        """A handle on a job that there is already."""
        return Render(self, job_id)

    def all_jobs(self) -> tuple[list[JobView], list[str]]:
        """Every job of the farm, the newest first; and the ids of those that this version cannot read."""
        return self._run(self._operations.all_jobs())

    def remove(self, old: Old, storage: Storage | None) -> Generator[Removed]:
        """Removes what `find_old` has found and still may go; see `ltx_client.farm.retention.remove`."""
        return stream(self._client, self._operations.remove(old, storage))

    def cancel(self, job_id: str) -> Status:
        """Asks for the job's end; returns its state at that moment (see `LedgerExchanges.cancel`)."""
        return self._run(self._operations.cancel(job_id))

    def pause(self, job_id: str) -> Status:
        """Keeps workers from the job until `resume`; one that renders it gives it back, and it goes on from there
        later. Returns its state at that moment.
        """
        return self._run(self._operations.pause(job_id))

    def resume(self, job_id: str) -> Status:
        """Ends a pause. Returns the job's state at that moment."""
        return self._run(self._operations.resume(job_id))

    def pauses(self) -> list[Pause]:
        """Which queues and workers are paused."""
        return self._run(self._operations.pauses())

    def pause_worker(self, name: str) -> Pause:
        """Has the live worker of that name or id finish its job and take no more until `resume_worker`, whatever is
        restarted meanwhile.

        Raises UsageError when there is not exactly one, and, as the three that follow, BrokerUnreachable for a user who
        is no admin.
        """
        return self._run(self._operations.pause_worker(name))

    def resume_worker(self, name: str) -> bool:
        """Ends the pause of a worker, which need not be alive. Returns whether it was paused."""
        return self._run(self._operations.resume_worker(name))

    def pause_queue(self, variant: str) -> Pause:
        """Has workers begin no job of that variant until `resume_queue`; those that run are rendered to their end."""
        return self._run(self._operations.pause_queue(variant))

    def resume_queue(self, variant: str) -> bool:
        """Ends the pause of a variant's queue. Returns whether it was paused."""
        return self._run(self._operations.resume_queue(variant))

    def prioritize(self, job_id: str, priority: int) -> Status:
        """Gives a job that waits another place: 0 is first, 9 is last. Returns its state at that moment."""
        return self._run(self._operations.prioritize(job_id, priority))

    def batch(self, text: str) -> Batch:
        """The batch whose id is, or ends with, `text`. Raises JobNotFound."""
        return self._run(self._operations.batch(text))

    def batches(self, limit: int = 50) -> list[Batch]:
        """The newest first."""
        return self._run(self._operations.batches(limit))

    def links(self, after: Sequence[str] = (), not_on: Sequence[str] = ()) -> Links:
        """Of a job that is to wait for these jobs and batches, and is kept from these workers. Raises JobNotFound,
        and UsageError for what is no worker's name.
        """
        return self._run(self._operations.links(after, not_on))

    def preview(self, job_id: str) -> bytes | None:
        """The newest checkpoint frame, a JPEG, or None where there is none, or something else."""
        return self._run(self._operations.preview(job_id))

    def download(self, job_id: str, target: Path) -> None:
        """Copies a finished job's MP4 to `target`, whole or not at all, its checksum verified.

        Raises UsageError when the job has no video, StorageUnreachable when the file cannot be had.
        """
        self._run(self._operations.download(job_id, target))

    def link(self, job_id: str) -> str | None:
        """A URL by which anybody can read the job's video without the storage, if its worker has left one: a key."""
        return self._run(self._operations.link(job_id))

    def workers(self) -> list[WorkerInfo]:
        """The live workers, by name."""
        return self._run(self._operations.workers())

    def open_jobs_and_paces(self) -> tuple[list[JobView], Paces]:
        """The jobs that have not ended, and what those took that have: of the newest few thousand."""
        return self._run(self._operations.open_jobs_and_paces())

    def places(self) -> dict[str, Place]:
        """Of each job that waits: how many are before it, and when it will begin."""
        return self._run(self._operations.places())

    def why_waiting(self, job_id: str) -> str:
        """Return what a job waits for that may never come by itself, in a sentence: a worker that serves it, the end of
        a pause. Empty where its turn will come, or it waits no more.
        """
        return self._run(self._operations.why_waiting(job_id))

    def why_waiting_all(self, views: Sequence[JobView]) -> dict[str, str]:
        """Return the same of several jobs."""
        return self._run(self._operations.why_waiting_all(views))

    def turns(self, variants: Collection[str]) -> Turns:
        """Whose turn it is, of each of these variants."""
        return self._run(self._operations.turns(variants))

    def submit(self, request: GenerationRequest, **options: Any) -> Job:
        """Prepares a job (see `prepare` for the options) and sends it."""
        return self._run(self._operations.submit(request, **options))

    def send(self, job: Job, inputs: Inputs | None = None, links: Links = NO_LINKS) -> None:
        """Stores the job's inputs, writes its record, which is the submission, then the message that brings it to a
        worker.

        Raises JobConflict when the id is another job's, IdUsed when it was one's that is removed, StorageUnreachable
        when the inputs cannot be stored, UsageError when they are given by content that is not in the storage. After
        BrokerUnreachable the same job may be sent again.
        """
        self._run(self._operations.send(job, inputs, links))

    def send_batch(self, batch: PreparedBatch) -> None:
        """The same for all jobs of a batch: first all records, then all messages. Nothing is written where one of them
        cannot be.

        Raises what `send` raises; the same batch again is safe.
        """
        self._run(self._operations.send_batch(batch))

    def retry(self, job_id: str) -> Job:
        """A new job in place of one that failed or was cancelled; the same again gives the same one.

        Raises UsageError when the job, or the last one in its place, has not ended, or is done.
        """
        return self._run(self._operations.retry(job_id))

    def watch(self, *job_ids: str) -> Generator[Update]:
        """Every event of these jobs from the first on: each job's in order, none twice, whenever one joins;
        then the live ones, until all have ended.

        At least one update a second for each job, without an event when nothing happened. When one of several cannot
        be read, or is gone, the others are followed to their end, and its error is raised then. An outage of the broker
        is ridden out for a minute.
        """
        return stream(self._client, self._operations.watch(job_ids))

    def log(self, job_id: str) -> Generator[Update]:
        """The events of a job so far, then once its state."""
        return stream(self._client, self._operations.log(job_id))

    def view(self, job_id: str) -> JobView:
        """One job. Raises JobNotFound, and FarmError for a job of another protocol version."""
        return self._run(self._operations.view(job_id))

    def jobs(self, limit: int = 50) -> list[JobView]:
        """The newest jobs first."""
        return self._run(self._operations.jobs(limit))

    def find(self, text: str) -> str:
        """The id of the job whose id is, or ends with, `text` (4 characters at least). Raises JobNotFound."""
        return self._run(self._operations.find(text))

    def now(self) -> float:
        """The time by the broker's clock, as every time that the farm shows: seconds since 1970. By this machine's own
        for a user that may not ask.
        """
        return self._run(self._operations.now())

    def check(self) -> None:
        """Raises BrokerUnreachable when this machine's embedded farm has died, and UsageError when its worker cannot
        start as it is set up; says nothing of other farms.
        """
        self._operations.check()

    def _run(self, exchange: Exchange[T]) -> T:
        return run(self._client, exchange)
