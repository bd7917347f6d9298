"""Provide the Python API: everything that the `ltx` command does, without the terminal.

    with Farm() as farm:
        farm.render("a red ball rolls to the right on a navy background").wait().download("ball.mp4")

`Farm.render` returns a handle on one job (`ltx_client.farm.render`); the other methods take jobs by their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ltx_client.farm.batches import Batch, PreparedBatch
from ltx_client.farm.changes.blocking import follow
from ltx_client.farm.changes.feed import Heard
from ltx_client.farm.connection import Connection
from ltx_client.farm.jobs.forecast import Paces, Place, Turns
from ltx_client.farm.jobs.inputs import Inputs
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.farm.render import Render, ids_of
from ltx_client.farm.retention import Old, Removed
from ltx_client.protocol.fair_turns import DEFAULT_PRIORITY
from ltx_client.protocol.jobs import NO_RELATIONS, Job, Relations
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
    """One farm, reached through its broker. Every method raises BrokerUnreachable if the broker does not answer."""

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
        """Submit a job and return a handle on it at once.

        Args:
            prompt: What the video shows.
            after: Jobs, or ids of jobs and batches, that the job depends on.
            not_on: Names or ids of workers that must not render it.
            variant: The model variant.
            priority: From 0 (first) to 9 (last).
            checkpoint_every: Steps between preview frames, 0 for none.
            time_limit: Seconds that the render may take; None for the worker's limit.
            job_id: The job's id; None to draw one.
            fields: Fields of `GenerationRequest`, such as width, height, num_frames, num_steps or seed; others are the
                variant's.

        Raises:
            UsageError: A field or an option is invalid.
            InvalidRequest: The request is out of the variant's bounds.
            FarmError: As from `send`.
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
        """Return a handle on an existing job."""
        return Render(self, job_id)

    def all_jobs(self) -> tuple[list[JobView], list[str]]:
        """Return every job of the farm, the newest first, and the ids of those that this version cannot read."""
        return self._run(self._operations.all_jobs())

    def remove(self, old: Old, storage: Storage | None) -> Generator[Removed]:
        """Remove what `find_old` has found and may still be removed; see `ltx_client.farm.retention.remove`."""
        return stream(self._client, self._operations.remove(old, storage))

    def cancel(self, job_id: str) -> Status:
        """Ask for the job's end; return its state at that moment (see `ClientLedger.cancel`)."""
        return self._run(self._operations.cancel(job_id))

    def pause(self, job_id: str) -> Status:
        """Keep workers from the job until `resume`; return its state at that moment.

        A worker that renders it requeues it, and it continues from there later.
        """
        return self._run(self._operations.pause(job_id))

    def resume(self, job_id: str) -> Status:
        """End a pause. Return the job's state at that moment."""
        return self._run(self._operations.resume(job_id))

    def pauses(self) -> list[Pause]:
        """Return the pauses of queues and workers."""
        return self._run(self._operations.pauses())

    def pause_worker(self, name: str) -> Pause:
        """Pause the live worker with that name or id until `resume_worker`, whatever is restarted meanwhile.

        It finishes its running job and takes no more.

        Raises:
            UsageError: There is not exactly one such worker.
            BrokerUnreachable: The user is not the farm's admin; also raised by the three methods that follow.
        """
        return self._run(self._operations.pause_worker(name))

    def resume_worker(self, name: str) -> bool:
        """Unpause a worker, which need not be alive. Return whether it was paused."""
        return self._run(self._operations.resume_worker(name))

    def pause_queue(self, variant: str) -> Pause:
        """Keep workers from beginning jobs of a variant until `resume_queue`; running jobs are finished."""
        return self._run(self._operations.pause_queue(variant))

    def resume_queue(self, variant: str) -> bool:
        """Unpause a variant's queue. Return whether it was paused."""
        return self._run(self._operations.resume_queue(variant))

    def prioritize(self, job_id: str, priority: int) -> Status:
        """Change a waiting job's priority: 0 is first, 9 is last. Return its state at that moment."""
        return self._run(self._operations.prioritize(job_id, priority))

    def batch(self, text: str) -> Batch:
        """Return the batch whose id is, or ends with, `text`.

        Raises:
            JobNotFound: There is no such batch, or several.
        """
        return self._run(self._operations.batch(text))

    def batches(self, limit: int = 50) -> list[Batch]:
        """Return the newest batches, the newest first."""
        return self._run(self._operations.batches(limit))

    def relations(self, after: Sequence[str] = (), not_on: Sequence[str] = ()) -> Relations:
        """Return the relations of a job that depends on these jobs and batches, and is not for these workers.

        Raises:
            JobNotFound: There is no such job or batch.
            UsageError: A worker's name is invalid.
        """
        return self._run(self._operations.relations(after, not_on))

    def preview(self, job_id: str) -> bytes | None:
        """Return the newest checkpoint frame, a JPEG; None if there is none, or the key is damaged."""
        return self._run(self._operations.preview(job_id))

    def download(self, job_id: str, target: Path) -> None:
        """Copy a finished job's MP4 to `target`, whole or not at all, and verify its checksum.

        Raises:
            UsageError: The job has no video.
            StorageUnreachable: The file cannot be read.
        """
        self._run(self._operations.download(job_id, target))

    def poster(self, job_id: str) -> bytes | None:
        """Return a finished job's poster, the middle frame of its video as a JPEG; None if it has none.

        Raises:
            StorageUnreachable: The file cannot be read.
        """
        return self._run(self._operations.poster(job_id))

    def link(self, job_id: str) -> str | None:
        """Return the job's download link, which is a secret; None if its worker has left none."""
        return self._run(self._operations.link(job_id))

    def workers(self) -> list[WorkerInfo]:
        """Return the live workers, by name."""
        return self._run(self._operations.workers())

    def open_jobs_and_paces(self) -> tuple[list[JobView], Paces]:
        """Return the jobs that have not ended, and the paces of those that have, among the newest few thousand."""
        return self._run(self._operations.open_jobs_and_paces())

    def places(self) -> dict[str, Place]:
        """Return the place of each waiting job: how many precede it, and when it will begin."""
        return self._run(self._operations.places())

    def why_waiting(self, job_id: str) -> str:
        """Return the reason for which a job may wait forever, as a sentence, such as a missing worker or a pause.

        It is empty if the job's turn will come, or if it no longer waits.
        """
        return self._run(self._operations.why_waiting(job_id))

    def why_waiting_all(self, views: Sequence[JobView]) -> dict[str, str]:
        """Return the reasons of several jobs, by id, as `why_waiting`."""
        return self._run(self._operations.why_waiting_all(views))

    def turns(self, variants: Collection[str]) -> Turns:
        """Return the turns of each of these variants."""
        return self._run(self._operations.turns(variants))

    def submit(self, request: GenerationRequest, **options: Any) -> Job:
        """Prepare a job and send it; `prepare` describes the options."""
        return self._run(self._operations.submit(request, **options))

    def send(self, job: Job, inputs: Inputs | None = None, relations: Relations = NO_RELATIONS) -> None:
        """Store the job's inputs, write its record, which is the submission, and send the message for a worker.

        After BrokerUnreachable the same job may be sent again.

        Raises:
            JobConflict: Another job has its id.
            IdUsed: A removed job had its id.
            StorageUnreachable: The inputs cannot be stored.
            UsageError: Inputs that are given by their SHA-256 are not in the storage.
            BrokerUnreachable: The broker did not answer.
        """
        self._run(self._operations.send(job, inputs, relations))

    def send_batch(self, batch: PreparedBatch) -> None:
        """Send all jobs of a batch: first all records, then all messages. Sending the same batch again is safe.

        Nothing is written if one of the jobs is refused.

        Raises:
            FarmError: As from `send`.
        """
        self._run(self._operations.send_batch(batch))

    def retry(self, job_id: str) -> Job:
        """Queue a new job in place of one that failed or was cancelled; retrying twice returns the same job.

        Raises:
            UsageError: The job, or the last one in its place, has not ended, or is done.
        """
        return self._run(self._operations.retry(job_id))

    def watch(self, *job_ids: str) -> Generator[Update]:
        """Yield every event of these jobs from the first on, then the live ones, until all have ended.

        Each job's events come in order, none twice, whenever a watcher joins. There is at least one update a second for
        each job, without an event if nothing happened. If one of several jobs cannot be read, or is gone, the others
        are followed to their end before its error is raised. An outage of the broker is retried for a minute.
        """
        return stream(self._client, self._operations.watch(job_ids))

    def changes(self, *, progress: bool = False) -> Generator[Heard]:
        """Yield what changes on the farm, without end: jobs, batches, workers and pauses, in the order of the changes.

        The first item is a `ReadAgain`: what is read after it, with `jobs`, `workers` and so on, lacks nothing but what
        the following items tell. There is another one after each reconnect, since messages were lost meanwhile, and for
        a consumer that is too slow. An item says what changed, by its `type`, and what to read again; a kind of a newer
        version is left out. Clients and workers of a version before this one tell nothing. An outage of the broker is
        ridden out for a minute.

        Args:
            progress: Whether to yield the events of all jobs too, as `JobEvent`; otherwise of a job there are only its
                changes of status.

        Raises:
            BrokerUnreachable: The broker did not answer for a minute, or does not let this user subscribe.
            FarmError: The farm was closed.
        """
        return follow(self._client, self._operations.feed(progress=progress))

    def log(self, job_id: str) -> Generator[Update]:
        """Yield the events of a job so far, then its state once."""
        return stream(self._client, self._operations.log(job_id))

    def view(self, job_id: str) -> JobView:
        """Return one job.

        Raises:
            JobNotFound: There is no such job.
            FarmError: The job is damaged, or of another protocol version.
        """
        return self._run(self._operations.view(job_id))

    def jobs(self, limit: int = 50) -> list[JobView]:
        """Return the newest jobs, the newest first."""
        return self._run(self._operations.jobs(limit))

    def find(self, text: str) -> str:
        """Return the id of the job whose id is, or ends with, `text` (4 characters at least).

        Raises:
            JobNotFound: There is no such job, or several.
        """
        return self._run(self._operations.find(text))

    def now(self) -> float:
        """Return the time by the broker's clock, as for every time that the farm shows: seconds since 1970.

        The time is this machine's own for a user that may not ask the broker.
        """
        return self._run(self._operations.now())

    def check(self) -> None:
        """Check that this machine's embedded farm can render; do nothing for other farms.

        Raises:
            BrokerUnreachable: The embedded farm has died.
            UsageError: Its worker cannot start with the present settings.
        """
        self._operations.check()

    def _run(self, exchange: Exchange[T]) -> T:
        return run(self._client, exchange)
