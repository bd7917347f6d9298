"""The part of a `Farm` that submits jobs.

What a job is given lies in the storage under the name of its content, once for all jobs, and `ltx gc` removes what none
needs any more. So that it never removes what somebody is about to submit, both sides go by one key on the broker for
each content, `input:{sha256}`:

1. who submits sets it to `wanted`, for an hour; not while it says that the content is being removed;
2. then makes sure that the content is in the storage;
3. the script that writes the job's record does so only while the key says `wanted`, and renews it.

`ltx gc` sets the key to say that it removes the content, which it may only where there is none, and only within an hour
of when it began to read which jobs need what: every job that was submitted since is kept by its key.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import redis

from ltx_client.errors import BrokerUnreachable, IdUsed, JobConflict, JobNotFound, StorageUnreachable, UsageError
from ltx_client.farm.batches import PreparedBatch, derived_id
from ltx_client.farm.broker import broker_errors
from ltx_client.farm.jobs.files import missing_inputs, store_inputs
from ltx_client.farm.jobs.inputs import Inputs
from ltx_client.farm.jobs.prepare import prepare, submitter
from ltx_client.farm.ledger.removal import REMOVAL_TTL
from ltx_client.farm.ledger.scripts import Submission
from ltx_client.farm.watching import Watching
from ltx_client.protocol.jobs import NO_LINKS, Job, Links
from ltx_client.protocol.state import Status
from ltx_client.shared.celery.messages import publish
from ltx_client.shared.unexpected_data import is_wrong_type, tell_once
from ltx_models.request import GenerationRequest

__all__ = ["Sending"]

ASK_AGAIN = 0.2
"""Seconds until it is asked again whether something is still being removed."""
TRIES = 3
"""Of a submission whose files took so long to store that they may be gone again."""


class Sending(Watching):
    """Submits; see the module."""

    def submit(self, request: GenerationRequest, **options: object) -> Job:
        """Prepares a job (see `prepare` for the options) and sends it."""
        prepared = prepare(request, **options)  # type: ignore[arg-type]
        self.send(*prepared)
        return prepared.job

    def send(self, job: Job, inputs: Inputs | None = None, links: Links = NO_LINKS) -> None:
        """Stores the job's inputs, writes its record, which is the submission, then the message that brings it to a
        worker.

        Raises JobConflict when the id is another job's, IdUsed when it was one's that is removed, StorageUnreachable
        when the inputs cannot be stored, UsageError when they are given by content that is not in the storage. After
        BrokerUnreachable the same job may be sent again.
        """
        try:
            self._submit([(job, links)], inputs or {})
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{_sentence(error)} Whether job {job.id} was queued is unknown; the same again with --id {job.id} is"
                " safe"
            ) from None

    def send_batch(self, batch: PreparedBatch) -> None:
        """The same for all jobs of a batch: first all records, then all messages. Nothing is written where one of them
        cannot be.

        Raises what `send` raises; the same batch again is safe.
        """
        try:
            with broker_errors(self._address):
                self._check_outcomes(batch.jobs, self._ledger.submit_all(batch.jobs, dry=True))
                self._batches.note(batch)
            self._submit(batch.jobs, batch.inputs)
        except IdUsed:
            raise IdUsed(
                f"batch {batch.id} was submitted before, and some of its jobs are removed; give another --id"
            ) from None
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{_sentence(error)} Whether all of batch {batch.id} was queued is unknown; the same again with --id"
                f" {batch.id} is safe"
            ) from None

    def _submit(self, jobs: Sequence[tuple[Job, Links]], inputs: Inputs) -> None:
        """Inputs, then all records, then the messages. Raises what `send` raises."""
        given = sorted(set().union(*(job.inputs for job, _ in jobs)))
        for _ in range(TRIES):
            self._want(given)
            store_inputs(self.storage_url, inputs)
            if missing := missing_inputs(self.storage_url, [sha256 for sha256 in given if sha256 not in inputs]):
                raise UsageError(
                    f"a picture or clip that the job is given is no longer in the farm's storage (SHA-256"
                    f" {missing[0][:12]}…): it was removed since nothing needed it, or damaged; give the file again"
                )
            with broker_errors(self._address):
                outcomes = self._ledger.submit_all(jobs)
                self._check_outcomes(jobs, outcomes)
                if Submission.NOT_WANTED not in outcomes:
                    self._publish([job for job, links in jobs if not links.waits])
                    return
        raise StorageUnreachable("the files that the job is given took more than an hour to store, again and again")

    def _publish(self, jobs: Sequence[Job]) -> None:
        try:
            publish(self._broker_url, self._names, jobs)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            tell_once("a key of the queue is damaged (see ltx doctor); workers send the messages of these jobs soon")

    def _want(self, given: Sequence[str]) -> None:
        """Keeps what has this content in the storage, if it is there, for an hour. Waits while it is being removed."""
        give_up_at = time.monotonic() + 2 * REMOVAL_TTL
        while given:
            with broker_errors(self._address):
                if self._removals.want(given):
                    return
            if time.monotonic() > give_up_at:
                raise StorageUnreachable("a file that the job is given is being removed by ltx gc; try again later")
            time.sleep(ASK_AGAIN)

    def _check_outcomes(self, jobs: Sequence[tuple[Job, Links]], outcomes: Sequence[Submission]) -> None:
        for (job, _), outcome in zip(jobs, outcomes, strict=True):
            if outcome is Submission.CONFLICT:
                raise JobConflict(f"job {job.id} exists already and asks for something else; give another --id")
            if outcome is Submission.USED:
                raise IdUsed(f"the id {job.id} was a job's that is removed; give another --id")

    def retry(self, job_id: str) -> Job:
        """A new job in place of one that failed or was cancelled; the same again gives the same one.

        Raises UsageError when the job, or the last one in its place, has not ended, or is done.
        """
        view = self.view(job_id)
        if view.status not in (Status.FAILED, Status.CANCELLED):
            raise UsageError(f"job {job_id} is {view.status}; one that failed or was cancelled can be tried again")
        last_id = view.job.id
        while True:
            last_id = derived_id("retry", last_id)
            try:
                view = self.view(last_id)
            except JobNotFound:
                job = view.job.model_copy(update={"id": last_id, "submitter": submitter()})
                links = Links(batch=view.links.batch, item=view.links.item, retry_of=view.job.id)
                with contextlib.suppress(IdUsed):  # else it was tried again before, and that job is removed
                    self.send(job, links=links)
                    return job
            else:
                if view.status not in (Status.FAILED, Status.CANCELLED):
                    return view.job


def _sentence(error: Exception) -> str:
    """The error's words, so that another sentence can follow."""
    return str(error) + ("" if str(error).endswith((".", "?")) else ".")
