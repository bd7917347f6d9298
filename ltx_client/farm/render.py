"""A handle on one job: what `Farm.render` gives, so that a program need not carry ids about."""

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
    """Return the ids of these, each a handle on a job or the id of a job or batch."""
    return [one if isinstance(one, str) else one.id for one in after]  # type: ignore[attr-defined]


def check_done(view: JobView) -> None:
    """Raise JobFailed or JobCancelled where that is how the job ended."""
    if view.status is Status.CANCELLED:
        raise JobCancelled(f"job {view.job.id} was cancelled")
    if view.status is Status.FAILED:
        raise JobFailed(f"job {view.job.id} failed: {view.snapshot.error}")


def not_ended(job_id: str, timeout: float | None, status: Status | None) -> TimeoutError:
    """Return what is raised when a job was waited for so many seconds. status: what it was last, if that is known."""
    known = f"; it is {status}" if status else ""
    return TimeoutError(
        f"job {job_id} has not ended" + (f" within {timeout:g} s" if timeout is not None else "") + known
    )


class Render:
    """One job of a farm. Methods raise what the methods of `Farm` raise that they stand for."""

    def __init__(self, farm: Farm, job_id: str) -> None:
        self.farm = farm
        self.id = job_id

    def __repr__(self) -> str:
        return f"<Render {self.id}>"

    @property
    def view(self) -> JobView:
        """The job as it is now."""
        return self.farm.view(self.id)

    @property
    def status(self) -> Status:
        """Where the job stands now."""
        return self.view.status

    @property
    def snapshot(self) -> Snapshot:
        """How far it is now: stage, step, pace, worker."""
        return self.view.snapshot

    def updates(self) -> Iterator[Update]:
        """What `Farm.watch` yields of this job, until it has ended; at least one a second."""
        return self.farm.watch(self.id)

    def events(self) -> Iterator[Event]:
        """Every event of the job from the first on, in order, each as soon as it is there, until it has ended."""
        return (update.event for update in self.updates() if update.event is not None)

    def wait(self, timeout: float | None = None) -> Self:
        """Returns when the job is done. Raises JobFailed, JobCancelled, and TimeoutError after so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for update in self.updates():
            if deadline is not None and not update.view.ended and time.monotonic() > deadline:
                raise not_ended(self.id, timeout, update.view.status)
        return self.check()

    def check(self) -> Self:
        """Raises JobFailed or JobCancelled where that is how the job ended."""
        check_done(self.view)
        return self

    def download(self, target: str | Path | None = None) -> Path:
        """Copies the finished MP4 to `target`, or into that folder, its checksum verified. Returns where it is."""
        path = video_path(Path(target or "."), self.id)
        self.farm.download(self.id, path)
        return path

    def why_waiting(self) -> str:
        """Return what it waits for that may never come by itself, in a sentence; see `Farm.why_waiting`."""
        return self.farm.why_waiting(self.id)

    def preview(self) -> bytes | None:
        """The newest checkpoint frame, a JPEG, if there is one."""
        return self.farm.preview(self.id)

    def cancel(self) -> Status:
        """Asks for the job's end. Returns its state at that moment."""
        return self.farm.cancel(self.id)

    def pause(self) -> Status:
        """Keeps workers from it until `resume`. Returns its state at that moment."""
        return self.farm.pause(self.id)

    def resume(self) -> Status:
        """Ends a pause. Returns the job's state at that moment."""
        return self.farm.resume(self.id)

    def retry(self) -> Render:
        """A new job in place of this one, which failed or was cancelled."""
        return Render(self.farm, self.farm.retry(self.id).id)
