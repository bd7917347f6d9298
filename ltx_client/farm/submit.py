"""Submit jobs: the operations of a farm that send them, as exchanges.

A job's inputs are stored once for all jobs, named by the SHA-256 of their content, and `ltx gc` removes those that no
job needs. So that it never removes what somebody is about to submit, both sides use one key on the broker for each
input, `input:{sha256}`:

1. a submitter sets it to `wanted`, for an hour, unless it says that the input is being removed;
2. then makes sure that the input is in the storage;
3. the script that writes the job's record does so only while the key says `wanted`, and renews it.

`ltx gc` sets the key to say that it removes the input, which it may only if the key is absent, and only within an hour
after it began to read which jobs need what: every job that was submitted since is protected by its key.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import redis
from pydantic import SecretStr

from ltx_client.errors import BrokerUnreachable, IdUsed, JobConflict, JobNotFound, StorageUnreachable, UsageError
from ltx_client.farm.batches import Batches, PreparedBatch, derived_id
from ltx_client.farm.broker import broker_errors
from ltx_client.farm.jobs.files import missing_inputs, store_inputs
from ltx_client.farm.jobs.inputs import Inputs
from ltx_client.farm.jobs.prepare import prepare, submitter
from ltx_client.farm.ledger.removal import REMOVAL_TTL, RemovalExchanges
from ltx_client.farm.ledger.scripts import LedgerExchanges, Submission
from ltx_client.farm.watching import Watching
from ltx_client.local.members import FarmFolder
from ltx_client.protocol.jobs import NO_RELATIONS, Job, Relations
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.shared.broker.exchange import Exchange, Sleep, block
from ltx_client.shared.celery.messages import publish
from ltx_client.shared.unexpected_data import is_wrong_type, tell_once
from ltx_models.request import GenerationRequest

__all__ = ["Sending"]

ASK_AGAIN = 0.2
"""Seconds between two checks whether something is still being removed."""
TRIES = 3
"""How often a submission is tried whose files took so long to store that they may have been removed."""


class Sending(Watching):
    """The operations of a farm that submit jobs."""

    def __init__(
        self, broker_url: SecretStr, names: Names, storage_url: str | None, embedded: FarmFolder | None
    ) -> None:
        super().__init__(broker_url, names, storage_url, embedded)
        self._ledger = LedgerExchanges(names)
        self._removals = RemovalExchanges(names)
        self._batches = Batches(names)

    def submit(self, request: GenerationRequest, **options: Any) -> Exchange[Job]:
        """See `Farm.submit`."""
        prepared = yield from block(prepare, request, **options)
        yield from self.send(*prepared)
        return prepared.job

    def send(self, job: Job, inputs: Inputs | None = None, relations: Relations = NO_RELATIONS) -> Exchange[None]:
        """See `Farm.send`."""
        try:
            yield from self._submit([(job, relations)], inputs or {})
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{_sentence(error)} Whether job {job.id} was queued is unknown; to send it again with --id {job.id}"
                f" --seed {job.request.seed} is safe"
            ) from None

    def send_batch(self, batch: PreparedBatch) -> Exchange[None]:
        """See `Farm.send_batch`."""
        try:
            with broker_errors(self._address):
                self._check_outcomes(batch.jobs, (yield from self._ledger.submit_all(batch.jobs, dry=True)))
                yield from self._batches.note(batch)
            yield from self._submit(batch.jobs, batch.inputs)
        except IdUsed:
            raise IdUsed(
                f"batch {batch.id} was submitted before, and some of its jobs are removed; use another --id"
            ) from None
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{_sentence(error)} Whether all of batch {batch.id} was queued is unknown; to send it again with"
                f" --id {batch.id} is safe"
            ) from None

    def _submit(self, jobs: Sequence[tuple[Job, Relations]], inputs: Inputs) -> Exchange[None]:
        """Store the inputs, write all records, then send the messages. Raise what `send` raises."""
        given = sorted(set().union(*(job.inputs for job, _ in jobs)))
        for _ in range(TRIES):
            yield from self._want(given)
            yield from block(store_inputs, self.storage_url, inputs)
            unsent = [sha256 for sha256 in given if sha256 not in inputs]
            if missing := (yield from block(missing_inputs, self.storage_url, unsent)):
                raise UsageError(
                    f"a picture or clip that the job is given is no longer in the farm's storage (SHA-256"
                    f" {missing[0][:12]}…): it was removed since no job needed it, or is damaged;"
                    " submit with the file itself"
                )
            with broker_errors(self._address):
                outcomes = yield from self._ledger.submit_all(jobs)
                self._check_outcomes(jobs, outcomes)
                if Submission.NOT_WANTED not in outcomes:
                    yield from block(self._publish, [job for job, relations in jobs if not relations.waits])
                    return
        raise StorageUnreachable("the files that the job is given repeatedly took more than an hour to store")

    def _publish(self, jobs: Sequence[Job]) -> None:
        try:
            publish(self.broker_url, self._names, jobs)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            tell_once("a key of the queue is damaged (see ltx doctor); workers send the messages of these jobs soon")

    def _want(self, given: Sequence[str]) -> Exchange[None]:
        """Keep inputs in the storage for an hour, if they are there. Wait while one is being removed."""
        give_up_at = time.monotonic() + 2 * REMOVAL_TTL
        while given:
            with broker_errors(self._address):
                if (yield from self._removals.want(given)):
                    return
            if time.monotonic() > give_up_at:
                raise StorageUnreachable("a file that the job is given is being removed by ltx gc; try again later")
            yield Sleep(ASK_AGAIN)

    def _check_outcomes(self, jobs: Sequence[tuple[Job, Relations]], outcomes: Sequence[Submission]) -> None:
        for (job, _), outcome in zip(jobs, outcomes, strict=True):
            if outcome is Submission.CONFLICT:
                raise JobConflict(f"job {job.id} exists already, with another request; use another --id")
            if outcome is Submission.USED:
                raise IdUsed(f"the id {job.id} belonged to a job that was removed; use another --id")

    def retry(self, job_id: str) -> Exchange[Job]:
        """See `Farm.retry`."""
        view = yield from self.view(job_id)
        if view.status not in (Status.FAILED, Status.CANCELLED):
            raise UsageError(f"job {job_id} is {view.status}; only a failed or cancelled job can be retried")
        last_id = view.job.id
        while True:
            if view.newer:
                raise UsageError(f"job {view.job.id} cannot be retried by this version: {view.newer}")
            last_id = derived_id("retry", last_id)
            try:
                view = yield from self.view(last_id)
            except JobNotFound:
                job = view.job.model_copy(update={"id": last_id, "submitter": submitter()})
                relations = Relations(batch=view.relations.batch, item=view.relations.item, retry_of=view.job.id)
                with contextlib.suppress(IdUsed):  # else it was retried before, and that job was removed
                    yield from self.send(job, relations=relations)
                    return job
            else:
                if view.status not in (Status.FAILED, Status.CANCELLED):
                    return view.job


def _sentence(error: Exception) -> str:
    """Return the error's message as a sentence that another one can follow."""
    return str(error) + ("" if str(error).endswith((".", "?")) else ".")
