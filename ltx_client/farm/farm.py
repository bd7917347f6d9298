"""The Python API: everything that the `ltx` command does, without the terminal.

    with Farm() as farm:
        farm.render("a red ball rolls to the right on a navy background").wait().download("ball.mp4")

`Farm.render` gives a handle on one job (`ltx_client.farm.render`); the other methods take jobs by their ids.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ltx_client.errors import FarmError, JobNotFound, UsageError
from ltx_client.farm.batches import Batch
from ltx_client.farm.broker import broker_errors, operator_errors
from ltx_client.farm.jobs.files import fetch_video
from ltx_client.farm.jobs.forecast import Paces, Place, Turns, measure, places
from ltx_client.farm.jobs.obstacles import why_waiting
from ltx_client.farm.jobs.prepare import prepare, submitter
from ltx_client.farm.jobs.views import JobView
from ltx_client.farm.render import Render
from ltx_client.farm.retention import Old, Removed, remove
from ltx_client.farm.submit import Sending
from ltx_client.farm.watching import MIN_ID_TAIL
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Links
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Status
from ltx_client.protocol.turns import DEFAULT_PRIORITY
from ltx_client.protocol.validation import READING, check_name
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.live_workers import live_workers
from ltx_client.shared.storage.store import Storage
from ltx_client.shared.unexpected_data import read_or
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant
from ltx_models.files.formats import HEAD_BYTES, JPEG, format_of
from ltx_models.request import GenerationRequest

__all__ = ["Farm"]


FORECAST_FROM = 2000
"""Jobs that a forecast looks at."""
AT_ONCE = 1000
"""Jobs of one round trip."""


class Farm(Sending):
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
        known = {field.name for field in dataclasses.fields(GenerationRequest)}
        if unknown := sorted(fields.keys() - known):
            near = difflib.get_close_matches(unknown[0], known, 1)
            raise UsageError(f"a request has no {unknown[0]!r}" + (f"; is {near[0]} meant?" if near else ""))
        request = GenerationRequest(prompt=prompt, **fields)
        job, inputs = prepare(
            request,
            variant=variant,
            priority=priority,
            checkpoint_every=checkpoint_every,
            time_limit=time_limit,
            job_id=job_id,
        )
        ids = [one.id if isinstance(one, Render) else one for one in after]
        self.send(job, inputs, self.links(ids, not_on))
        return Render(self, job.id)

    def all_jobs(self) -> tuple[list[JobView], list[str]]:
        """Every job of the farm, the newest first; and the ids of those that this version cannot read."""
        with broker_errors(self._address):
            stored: Any = self._client.zrevrange(self._names.jobs(), 0, -1)
        ids = [job_id.decode(errors="replace") for job_id in stored]
        views = [view for at in range(0, len(ids), AT_ONCE) for view in self._views(ids[at : at + AT_ONCE])]
        return views, sorted(set(ids) - {view.job.id for view in views})

    def remove(self, old: Old, storage: Storage | None) -> Iterator[Removed]:
        """Removes what `find_old` has found and still may go; see `ltx_client.farm.retention.remove`."""
        with broker_errors(self._address):
            yield from remove(old, storage, self._removals, self._batches)

    def cancel(self, job_id: str) -> Status:
        """Asks for the job's end; returns its state at that moment (see ClientLedger.cancel)."""
        with broker_errors(self._address):
            return self._known(job_id, self._ledger.cancel(job_id))

    def pause(self, job_id: str) -> Status:
        """Keeps workers from the job until `resume`; one that renders it gives it back, and it goes on from there
        later. Returns its state at that moment.
        """
        with broker_errors(self._address):
            return self._known(job_id, self._ledger.hold(job_id))

    def resume(self, job_id: str) -> Status:
        """Ends a pause. Returns the job's state at that moment."""
        with broker_errors(self._address):
            return self._known(job_id, self._ledger.unhold(job_id))

    def pauses(self) -> list[Pause]:
        """Which queues and workers are paused."""
        with broker_errors(self._address):
            return self._pauses.all()

    def pause_worker(self, name: str) -> Pause:
        """Has the live worker of that name or id finish its job and take no more until `resume_worker`, whatever is
        restarted meanwhile.

        Raises UsageError when there is not exactly one, and, as the three that follow, BrokerUnreachable for a user who
        is no admin.
        """
        with operator_errors(self._address):
            return self._pauses.pause_worker(name, self.workers(), submitter(), self.now())

    def resume_worker(self, name: str) -> bool:
        """Ends the pause of a worker, which need not be alive. Returns whether it was paused."""
        with operator_errors(self._address):
            return self._pauses.resume_worker(name, self.workers())

    def pause_queue(self, variant: str) -> Pause:
        """Has workers begin no job of that variant until `resume_queue`; those that run are rendered to their end."""
        with operator_errors(self._address):
            return self._pauses.pause_queue(find_variant(variant).name, submitter(), self.now())

    def resume_queue(self, variant: str) -> bool:
        """Ends the pause of a variant's queue. Returns whether it was paused."""
        with operator_errors(self._address):
            return self._pauses.resume_queue(find_variant(variant).name)

    def prioritize(self, job_id: str, priority: int) -> Status:
        """Gives a job that waits another place: 0 is first, 9 is last. Returns its state at that moment."""
        if not 0 <= priority <= 9:
            raise UsageError(f"the priority {priority} is none; 0 (first) to 9 (last) are")
        with broker_errors(self._address):
            return self._known(job_id, self._ledger.set_priority(job_id, priority))

    def _known(self, job_id: str, status: Status | None) -> Status:
        if status is None:
            raise JobNotFound(f"there is no job {job_id} on this farm; `ltx jobs` lists those that there are")
        return status

    def batch(self, text: str) -> Batch:
        """The batch whose id is, or ends with, `text`. Raises JobNotFound."""
        with broker_errors(self._address):
            return self._batches.get(self._batches.find(text, MIN_ID_TAIL))

    def batches(self, limit: int = 50) -> list[Batch]:
        """The newest first."""
        with broker_errors(self._address):
            return list(itertools.islice(self._batches.newest(), limit))

    def links(self, after: Sequence[str] = (), not_on: Sequence[str] = ()) -> Links:
        """Of a job that is to wait for these jobs and batches, and is kept from these workers. Raises JobNotFound,
        and UsageError for what is no worker's name.
        """
        jobs, batches = [], []
        for name in not_on:
            try:
                if not check_name(name).strip():  # as of a variable that is not set: it would keep it from nobody
                    raise ValueError("it is empty")
            except ValueError as error:
                raise UsageError(f"--not-on {name!r} is no worker's name: {error}") from None
        for text in after:
            try:
                batches.append(self.batch(text).id)
            except JobNotFound:
                jobs.append(self.find(text))
        return Links(after_jobs=tuple(jobs), after_batches=tuple(batches), not_on=tuple(not_on))

    def preview(self, job_id: str) -> bytes | None:
        """The newest checkpoint frame, a JPEG, or None where there is none, or something else."""
        with broker_errors(self._address):
            key = self._names.preview(job_id)
            jpeg: Any = read_or(None, key, lambda: self._client.get(key))
        return bytes(jpeg) if jpeg and format_of(jpeg[:HEAD_BYTES]) == JPEG else None

    def download(self, job_id: str, target: Path) -> None:
        """Copies a finished job's MP4 to `target`, whole or not at all, its checksum verified.

        Raises UsageError when the job has no video, StorageUnreachable when the file cannot be had.
        """
        view = self.view(job_id)
        with broker_errors(self._address):
            token = self._removals.begin_reading(job_id)
        self._known(job_id, view.status if token else None)
        try:
            fetch_video(self.storage_url, view, target, self.link)
        finally:
            with contextlib.suppress(FarmError), broker_errors(self._address):
                self._removals.end_reading(job_id, token or "")

    def link(self, job_id: str) -> str | None:
        """A URL by which anybody can read the job's video without the storage, if its worker has left one: a key."""
        with broker_errors(self._address):
            key = self._names.result(job_id)
            files: Any = read_or(None, key, lambda: self._client.hget(key, "files"))
        try:
            return Result.model_validate_json(files, context=READING).link if files else None
        except ValidationError:
            return None

    def workers(self) -> list[WorkerInfo]:
        """The live workers, by name."""
        with broker_errors(self._address):
            return live_workers(self._client, self._names)

    def open_jobs_and_paces(self) -> tuple[list[JobView], Paces]:
        """The jobs that have not ended, and what those took that have: of the newest few thousand."""
        views = self.jobs(FORECAST_FROM)
        return [view for view in views if not view.ended], measure(views, self.workers())

    def places(self) -> dict[str, Place]:
        """Of each job that waits: how many are before it, and when it will begin."""
        views, paces = self.open_jobs_and_paces()
        return places(views, self.workers(), paces, self.now(), self.turns({view.job.variant for view in views}))

    def why_waiting(self, job_id: str) -> str:
        """Return what a job waits for that may never come by itself, in a sentence: a worker that serves it, the end of
        a pause. Empty where its turn will come, or it waits no more.
        """
        return self.why_waiting_all([self.view(job_id)])[job_id]

    def why_waiting_all(self, views: Sequence[JobView]) -> dict[str, str]:
        """Return the same of several jobs."""
        workers, pauses = self.workers(), self.pauses()
        return {view.job.id: why_waiting(view, workers, pauses, embedded=self.is_embedded) for view in views}

    def turns(self, variants: Collection[str]) -> Turns:
        """Whose turn it is, of each of these variants."""
        with broker_errors(self._address):
            return {variant: self._turns_of(self._names.turns(variant)) for variant in variants}

    def _turns_of(self, key: str) -> list[str]:
        turns: Any = read_or([], key, lambda: self._client.zrange(key, 0, -1))
        return [turn.decode(errors="replace") for turn in turns]
