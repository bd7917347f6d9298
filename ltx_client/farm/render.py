"""Provide a handle on one job, which `Farm.render` returns, so that a program need not pass ids around."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ltx_client.errors import JobCancelled, JobFailed
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.farm.outputs.naming import video_path
from ltx_client.protocol.events import Event
from ltx_client.protocol.state import Snapshot, Status

if TYPE_CHECKING:
    from ltx_client.farm.farm import Farm

__all__ = ["Render", "check_done", "ids_of", "not_ended"]


def ids_of(after: Sequence[object]) -> list[str]:
    """Return the ids of handles on jobs, and of the ids of jobs and batches among them."""
    return [one if isinstance(one, str) else one.id for one in after]  # type: ignore[attr-defined]


def check_done(view: JobView) -> None:
    """Raise JobFailed or JobCancelled if the job ended like that."""
    if view.status is Status.CANCELLED:
        raise JobCancelled(f"job {view.job.id} was cancelled")
    if view.status is Status.FAILED:
        raise JobFailed(f"job {view.job.id} failed: {view.snapshot.error}")


def not_ended(job_id: str, timeout: float | None, status: Status | None) -> TimeoutError:
    """Return the error for a job that has not ended in time.

    Args:
        job_id: The job.
        timeout: Seconds that were waited.
        status: Its last state, if that is known.
    """
    known = f"; it is {status}" if status else ""
    return TimeoutError(
        f"job {job_id} has not ended" + (f" within {timeout:g} s" if timeout is not None else "") + known
    )


class Render:
    """One job of a farm. Its methods raise what the methods of `Farm` raise that they call."""

    def __init__(self, farm: Farm, job_id: str) -> None:
        self.farm = farm
        self.id = job_id

    def __repr__(self) -> str:
        return f"<Render {self.id}>"

    @property
    def view(self) -> JobView:
        """Return the job as it is now."""
        return self.farm.view(self.id)

    @property
    def status(self) -> Status:
        """Return the job's state."""
        return self.view.status

    @property
    def snapshot(self) -> Snapshot:
        """Return how far the job is: stage, step, pace, worker."""
        return self.view.snapshot

    def updates(self) -> Iterator[Update]:
        """Yield what `Farm.watch` yields of this job until it has ended, at least one update a second."""
        return self.farm.watch(self.id)

    def events(self) -> Iterator[Event]:
        """Yield the job's events from the first on, in order, each as soon as it occurs, until the job has ended."""
        return (update.event for update in self.updates() if update.event is not None)

    def wait(self, timeout: float | None = None) -> Self:
        """Return when the job is done.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Raises:
            JobFailed: The job failed.
            JobCancelled: The job was cancelled.
            TimeoutError: The job has not ended in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for update in self.updates():
            if deadline is not None and not update.view.ended and time.monotonic() > deadline:
                raise not_ended(self.id, timeout, update.view.status)
        return self.check()

    def check(self) -> Self:
        """Raise JobFailed or JobCancelled if the job ended like that."""
        check_done(self.view)
        return self

    def download(self, target: str | Path | None = None) -> Path:
        """Copy the finished MP4 to `target`, or into that folder, verify its checksum, and return its path."""
        path = video_path(Path(target or "."), self.id)
        self.farm.download(self.id, path)
        return path

    def poster(self) -> bytes | None:
        """Return the finished video's middle frame, a JPEG, for as long as the video is kept; None if there is none."""
        return self.farm.poster(self.id)

    def why_waiting(self) -> str:
        """Return the reason for which the job may wait forever, as a sentence; see `Farm.why_waiting`."""
        return self.farm.why_waiting(self.id)

    def preview(self) -> bytes | None:
        """Return the newest checkpoint frame, a JPEG; None if there is none."""
        return self.farm.preview(self.id)

    def cancel(self) -> Status:
        """Ask for the job's end. Return its state at that moment."""
        return self.farm.cancel(self.id)

    def pause(self) -> Status:
        """Keep workers from the job until `resume`. Return its state at that moment."""
        return self.farm.pause(self.id)

    def resume(self) -> Status:
        """End a pause. Return the job's state at that moment."""
        return self.farm.resume(self.id)

    def retry(self) -> Render:
        """Queue a new job in place of this one, which failed or was cancelled."""
        return Render(self.farm, self.farm.retry(self.id).id)
