"""The part of what a farm does that submits jobs, as exchanges.

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
from ltx_client.protocol.jobs import NO_LINKS, Job, Links
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.shared.broker.exchange import Exchange, Sleep, block
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

    def send(self, job: Job, inputs: Inputs | None = None, links: Links = NO_LINKS) -> Exchange[None]:
        """See `Farm.send`."""
        try:
            yield from self._submit([(job, links)], inputs or {})
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{_sentence(error)} Whether job {job.id} was queued is unknown; the same again with --id {job.id} is"
                " safe"
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
                f"batch {batch.id} was submitted before, and some of its jobs are removed; give another --id"
            ) from None
        except BrokerUnreachable as error:
            raise BrokerUnreachable(
                f"{_sentence(error)} Whether all of batch {batch.id} was queued is unknown; the same again with --id"
                f" {batch.id} is safe"
            ) from None

    def _submit(self, jobs: Sequence[tuple[Job, Links]], inputs: Inputs) -> Exchange[None]:
        """Inputs, then all records, then the messages. Raises what `send` raises."""
        given = sorted(set().union(*(job.inputs for job, _ in jobs)))
        for _ in range(TRIES):
            yield from self._want(given)
            yield from block(store_inputs, self.storage_url, inputs)
            unsent = [sha256 for sha256 in given if sha256 not in inputs]
            if missing := (yield from block(missing_inputs, self.storage_url, unsent)):
                raise UsageError(
                    f"a picture or clip that the job is given is no longer in the farm's storage (SHA-256"
                    f" {missing[0][:12]}…): it was removed since nothing needed it, or damaged; give the file again"
                )
            with broker_errors(self._address):
                outcomes = yield from self._ledger.submit_all(jobs)
                self._check_outcomes(jobs, outcomes)
                if Submission.NOT_WANTED not in outcomes:
                    yield from block(self._publish, [job for job, links in jobs if not links.waits])
                    return
        raise StorageUnreachable("the files that the job is given took more than an hour to store, again and again")

    def _publish(self, jobs: Sequence[Job]) -> None:
        try:
            publish(self.broker_url, self._names, jobs)
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
            tell_once("a key of the queue is damaged (see ltx doctor); workers send the messages of these jobs soon")

    def _want(self, given: Sequence[str]) -> Exchange[None]:
        """Keeps what has this content in the storage, if it is there, for an hour. Waits while it is being removed."""
        give_up_at = time.monotonic() + 2 * REMOVAL_TTL
        while given:
            with broker_errors(self._address):
                if (yield from self._removals.want(given)):
                    return
            if time.monotonic() > give_up_at:
                raise StorageUnreachable("a file that the job is given is being removed by ltx gc; try again later")
            yield Sleep(ASK_AGAIN)

    def _check_outcomes(self, jobs: Sequence[tuple[Job, Links]], outcomes: Sequence[Submission]) -> None:
        for (job, _), outcome in zip(jobs, outcomes, strict=True):
            if outcome is Submission.CONFLICT:
                raise JobConflict(f"job {job.id} exists already and asks for something else; give another --id")
            if outcome is Submission.USED:
                raise IdUsed(f"the id {job.id} was a job's that is removed; give another --id")

    def retry(self, job_id: str) -> Exchange[Job]:
        """See `Farm.retry`."""
        view = yield from self.view(job_id)
        if view.status not in (Status.FAILED, Status.CANCELLED):
            raise UsageError(f"job {job_id} is {view.status}; one that failed or was cancelled can be tried again")
        last_id = view.job.id
        while True:
            last_id = derived_id("retry", last_id)
            try:
                view = yield from self.view(last_id)
            except JobNotFound:
                job = view.job.model_copy(update={"id": last_id, "submitter": submitter()})
                links = Links(batch=view.links.batch, item=view.links.item, retry_of=view.job.id)
                with contextlib.suppress(IdUsed):  # else it was tried again before, and that job is removed
                    yield from self.send(job, links=links)
                    return job
            else:
                if view.status not in (Status.FAILED, Status.CANCELLED):
                    return view.job


def _sentence(error: Exception) -> str:
    """The error's words, so that another sentence can follow."""
    return str(error) + ("" if str(error).endswith((".", "?")) else ".")
