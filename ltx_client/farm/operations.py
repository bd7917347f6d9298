"""Define the operations of a farm besides reading and submitting, as exchanges.

`Farm` runs them with a blocking client, `AsyncFarm` with an asyncio client; `Farm` documents each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import redis
from pydantic import SecretStr, ValidationError

from ltx_client.errors import FarmError, JobNotFound, UsageError
from ltx_client.farm.batches import Batch
from ltx_client.farm.broker import broker_errors, operator_errors
from ltx_client.farm.jobs.files import fetch_poster, fetch_video
from ltx_client.farm.jobs.forecast import Paces, Place, Turns, measure, places
from ltx_client.farm.jobs.obstacles import why_waiting
from ltx_client.farm.jobs.prepare import prepare, submitter
from ltx_client.farm.jobs.views import JobView
from ltx_client.farm.pauses import Pauses
from ltx_client.farm.retention import Old, remove
from ltx_client.farm.submit import Sending
from ltx_client.farm.watching import MIN_ID_TAIL
from ltx_client.local.members import FarmFolder
from ltx_client.protocol.clock import Clock
from ltx_client.protocol.events import Result
from ltx_client.protocol.file_names import POSTER, VIDEO, ResultFile
from ltx_client.protocol.jobs import Job, Relations
from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Status
from ltx_client.protocol.validation import READING, check_name
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.broker.exchange import Command, Exchange, ask, ask_all, block
from ltx_client.shared.live_workers import read_workers
from ltx_client.shared.storage.store import Storage
from ltx_client.shared.unexpected_data import ask_or
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant
from ltx_models.files.formats import HEAD_BYTES, JPEG, format_of
from ltx_models.request import GenerationRequest, refusals_of

__all__ = ["Operations"]

T = TypeVar("T")

FORECAST_FROM = 2000
"""How many jobs a forecast reads."""
AT_ONCE = 1000
"""Jobs read in one round trip."""


class Operations(Sending):
    """The operations of a farm. Each method implements the one of its name of `Farm`."""

    def __init__(
        self, broker_url: SecretStr, names: Names, storage_url: str | None, embedded: FarmFolder | None
    ) -> None:
        super().__init__(broker_url, names, storage_url, embedded)
        self._clock = Clock()
        self._pauses = Pauses(names)

    def render(
        self, prompt: str, after: Sequence[str], not_on: Sequence[str], fields: dict[str, Any], **options: Any
    ) -> Exchange[Job]:
        """See `Farm.render`.

        Args:
            prompt: What the video shows.
            after: Ids of jobs and batches.
            not_on: Names or ids of workers.
            fields: Fields of the request.
            options: Options of `prepare`.
        """
        known = {field.name for field in dataclasses.fields(GenerationRequest)}
        if unknown := sorted(fields.keys() - known):
            near = difflib.get_close_matches(unknown[0], known, 1)
            raise UsageError(f"a request has no {unknown[0]!r}" + (f"; is {near[0]} meant?" if near else ""))
        with refusals_of(find_variant(options.get("variant", DEFAULT_VARIANT))):
            request = GenerationRequest(prompt=prompt, **fields)
        job, inputs = yield from block(prepare, request, **options)
        relations = yield from self.relations(after, not_on)
        yield from self.send(job, inputs, relations)
        return job

    def now(self) -> Exchange[float]:
        """See `Farm.now`."""
        with broker_errors(self._address), contextlib.suppress(redis.exceptions.NoPermissionError):
            if self._clock.is_due():
                asked_at = time.time(), time.monotonic()
                self._clock.take((yield from ask("time")), asked_at)
        return self._clock.now()

    def all_jobs(self) -> Exchange[tuple[list[JobView], list[str]]]:
        """See `Farm.all_jobs`."""
        with broker_errors(self._address):
            stored = yield from ask("zrevrange", self._names.jobs(), 0, -1)
        ids = [job_id.decode(errors="replace") for job_id in stored]
        views: list[JobView] = []
        for at in range(0, len(ids), AT_ONCE):
            views += yield from self._views(ids[at : at + AT_ONCE])
        return views, (yield from self._existing(sorted(set(ids) - {view.job.id for view in views})))

    def _existing(self, ids: Sequence[str]) -> Exchange[list[str]]:
        """Return those of these ids whose jobs have a record. Those that have expired stay listed for a while."""
        with broker_errors(self._address):
            found = yield from ask_all([Command("exists", [self._names.job(job_id)]) for job_id in ids])
        return [job_id for job_id, exists in zip(ids, found, strict=True) if exists]

    def remove(self, old: Old, storage: Storage | None) -> Exchange[None]:
        """See `Farm.remove`. The items are what was removed so far."""
        with broker_errors(self._address):
            yield from remove(old, storage, self._removals, self._batches)

    def cancel(self, job_id: str) -> Exchange[Status]:
        """See `Farm.cancel`."""
        with broker_errors(self._address):
            return _known(job_id, (yield from self._ledger.cancel(job_id)))

    def pause(self, job_id: str) -> Exchange[Status]:
        """See `Farm.pause`."""
        with broker_errors(self._address):
            return _known(job_id, (yield from self._ledger.pause(job_id)))

    def resume(self, job_id: str) -> Exchange[Status]:
        """See `Farm.resume`."""
        with broker_errors(self._address):
            return _known(job_id, (yield from self._ledger.unpause(job_id)))

    def prioritize(self, job_id: str, priority: int) -> Exchange[Status]:
        """See `Farm.prioritize`."""
        if not 0 <= priority <= 9:
            raise UsageError(f"the priority {priority} is invalid; use 0 (first) to 9 (last)")
        with broker_errors(self._address):
            return _known(job_id, (yield from self._ledger.set_priority(job_id, priority)))

    def pauses(self) -> Exchange[list[Pause]]:
        """See `Farm.pauses`."""
        with broker_errors(self._address):
            return (yield from self._pauses.all())

    def pause_worker(self, name: str) -> Exchange[Pause]:
        """See `Farm.pause_worker`."""
        with operator_errors(self._address):
            workers, now = (yield from self.workers()), (yield from self.now())
            return (yield from self._pauses.pause_worker(name, workers, submitter(), now))

    def resume_worker(self, name: str) -> Exchange[bool]:
        """See `Farm.resume_worker`."""
        with operator_errors(self._address):
            return (yield from self._pauses.resume_worker(name, (yield from self.workers())))

    def pause_queue(self, variant: str) -> Exchange[Pause]:
        """See `Farm.pause_queue`."""
        with operator_errors(self._address):
            return (
                yield from self._pauses.pause_queue(find_variant(variant).name, submitter(), (yield from self.now()))
            )

    def resume_queue(self, variant: str) -> Exchange[bool]:
        """See `Farm.resume_queue`."""
        with operator_errors(self._address):
            return (yield from self._pauses.resume_queue(find_variant(variant).name))

    def batch(self, text: str) -> Exchange[Batch]:
        """See `Farm.batch`."""
        with broker_errors(self._address):
            return (yield from self._batches.get((yield from self._batches.find(text, MIN_ID_TAIL))))

    def batches(self, limit: int) -> Exchange[list[Batch]]:
        """See `Farm.batches`."""
        with broker_errors(self._address):
            return (yield from self._batches.newest(limit))

    def relations(self, after: Sequence[str], not_on: Sequence[str]) -> Exchange[Relations]:
        """See `Farm.relations`."""
        jobs, batches = [], []
        for name in not_on:
            try:
                if not check_name(name).strip():  # as from an unset variable: it would exclude nobody
                    raise ValueError("it is empty")
            except ValueError as error:
                raise UsageError(f"--not-on {name!r} is invalid: it is not a worker's name: {error}") from None
        for text in after:
            try:
                batches.append((yield from self.batch(text)).id)
            except JobNotFound:
                jobs.append((yield from self.find(text)))
        return Relations(after_jobs=tuple(jobs), after_batches=tuple(batches), not_on=tuple(not_on))

    def preview(self, job_id: str) -> Exchange[bytes | None]:
        """See `Farm.preview`."""
        with broker_errors(self._address):
            jpeg = yield from ask_or(None, self._names.preview(job_id), "get")
        return bytes(jpeg) if jpeg and format_of(jpeg[:HEAD_BYTES]) == JPEG else None

    def download(self, job_id: str, target: Path) -> Exchange[None]:
        """See `Farm.download`."""
        view = yield from self.view(job_id)
        yield from self._reading(view, fetch_video(self.storage_url, view, target, self.link))

    def poster(self, job_id: str) -> Exchange[bytes | None]:
        """See `Farm.poster`."""
        view = yield from self.view(job_id)
        return (yield from self._reading(view, fetch_poster(self.storage_url, view, self._poster_link)))

    def _reading(self, view: JobView, fetch: Exchange[T]) -> Exchange[T]:
        """Fetch files of a job, which nobody can remove meanwhile. Raise JobNotFound for one that is gone."""
        job_id = view.job.id
        with broker_errors(self._address):
            token = yield from self._removals.begin_reading(job_id)
        _known(job_id, view.status if token else None)
        try:
            return (yield from fetch)
        finally:
            with contextlib.suppress(FarmError), broker_errors(self._address):
                yield from self._removals.end_reading(job_id, token or "")

    def link(self, job_id: str) -> Exchange[str | None]:
        """See `Farm.link`."""
        return (yield from self._link(job_id, VIDEO))

    def _poster_link(self, job_id: str) -> Exchange[str | None]:
        return (yield from self._link(job_id, POSTER))

    def _link(self, job_id: str, kind: ResultFile) -> Exchange[str | None]:
        with broker_errors(self._address):
            files = yield from ask_or(None, self._names.result(job_id), "hget", "files")
        try:
            return Result.model_validate_json(files, context=READING).links[kind.link] if files else None
        except ValidationError:
            return None

    def workers(self) -> Exchange[list[WorkerInfo]]:
        """See `Farm.workers`."""
        with broker_errors(self._address):
            return (yield from read_workers(self._names))

    def open_jobs_and_paces(self) -> Exchange[tuple[list[JobView], Paces]]:
        """See `Farm.open_jobs_and_paces`."""
        views = yield from self.jobs(FORECAST_FROM)
        return [view for view in views if not view.ended], measure(views, (yield from self.workers()))

    def places(self) -> Exchange[dict[str, Place]]:
        """See `Farm.places`."""
        views, paces = yield from self.open_jobs_and_paces()
        workers, now = (yield from self.workers()), (yield from self.now())
        return places(views, workers, paces, now, (yield from self.turns({view.job.variant for view in views})))

    def why_waiting_all(self, views: Sequence[JobView]) -> Exchange[dict[str, str]]:
        """See `Farm.why_waiting_all`."""
        workers, pauses = (yield from self.workers()), (yield from self.pauses())
        embedded = self.embedded is not None
        return {view.job.id: why_waiting(view, workers, pauses, embedded=embedded) for view in views}

    def why_waiting(self, job_id: str) -> Exchange[str]:
        """See `Farm.why_waiting`."""
        views = [(yield from self.view(job_id))]
        return (yield from self.why_waiting_all(views))[job_id]

    def turns(self, variants: Collection[str]) -> Exchange[Turns]:
        """See `Farm.turns`."""
        found: dict[str, list[str]] = {}
        with broker_errors(self._address):
            for variant in variants:
                turns = yield from ask_or([], self._names.turns(variant), "zrange", 0, -1)
                found[variant] = [turn.decode(errors="replace") for turn in turns]
        return found


def _known(job_id: str, status: Status | None) -> Status:
    if status is None:
        raise JobNotFound(f"there is no job {job_id} on this farm; `ltx jobs` lists the jobs")
    return status
