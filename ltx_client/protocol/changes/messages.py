"""Define what the farm's channel tells, one message a change: a tagged union whose `type` names the kind.

The script that makes a change publishes its message on `Names.changes()`, so that neither is seen without the other.
A message says what changed and what to read again; it is no record. Pub/sub loses what is published while nobody is
subscribed, and a client or worker of a version before this channel publishes nothing: whoever follows subscribes, then
reads, then applies messages, and reads again after a reconnect.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ltx_client.protocol.events import Count
from ltx_client.protocol.validation import Cleaned, Name, Sentence, parse_tagged

__all__ = [
    "UNTOLD",
    "BatchRemoved",
    "BatchSubmitted",
    "Change",
    "JobCancelAsked",
    "JobPaused",
    "JobPriority",
    "JobRemoved",
    "JobStatus",
    "JobSubmitted",
    "JobUnpaused",
    "Paused",
    "Unpaused",
    "UnreadableChange",
    "WorkerCame",
    "WorkerChanged",
    "WorkerLeft",
    "parse_change",
]

UNTOLD = frozenset({"failed_at", "seen_at", "started_at", "temperature", "threads"})
"""The fields of a worker's record that differ at every heartbeat, and of which no message tells."""


class _Change(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class JobSubmitted(_Change):
    """A job was submitted; `batch` is its batch, to which a retry adds a job too, or null."""

    type: Literal["job_submitted"] = "job_submitted"
    job: Name
    variant: Name
    priority: Count
    submitter: Name
    batch: Name | None = None


class JobStatus(_Change):
    """A job is `queued` again, `running`, `done`, `failed` or `cancelled`.

    `seq` is the number of the job's event that says so, in `events:{job}`; `worker` and `worker_name` are empty unless
    the job runs.
    """

    type: Literal["job_status"] = "job_status"
    job: Name
    status: Name
    seq: Count
    attempt: Count
    worker: Name = ""
    worker_name: Name = ""


class JobCancelAsked(_Change):
    """Somebody cancelled a job. One that waits never runs; the end of one that runs is told when it has stopped."""

    type: Literal["job_cancel_asked"] = "job_cancel_asked"
    job: Name


class JobPaused(_Change):
    """A job was paused; that a running one has stopped is told as its status."""

    type: Literal["job_paused"] = "job_paused"
    job: Name


class JobUnpaused(_Change):
    """A job was unpaused."""

    type: Literal["job_unpaused"] = "job_unpaused"
    job: Name


class JobPriority(_Change):
    """A job's priority was changed."""

    type: Literal["job_priority"] = "job_priority"
    job: Name
    priority: Count


class JobRemoved(_Change):
    """A job's record was removed, or found to have expired; for one job it may be told twice."""

    type: Literal["job_removed"] = "job_removed"
    job: Name


class BatchSubmitted(_Change):
    """A batch was submitted; its jobs follow, each with a message of its own."""

    type: Literal["batch_submitted"] = "batch_submitted"
    batch: Name
    name: Cleaned
    submitter: Name


class BatchRemoved(_Change):
    """A batch's record was removed, after all of its jobs."""

    type: Literal["batch_removed"] = "batch_removed"
    batch: Name


class _OfWorker(_Change):
    worker: Name
    name: Name
    variant: Name
    state: Name
    job: Name = ""
    why_paused: Sentence = ""


class WorkerCame(_OfWorker):
    """A worker has started, or is there again.

    `job` is the one that it renders, or empty; `why_paused` says why it takes none, or is empty.
    """

    type: Literal["worker_came"] = "worker_came"


class WorkerChanged(_OfWorker):
    """Something in a worker's record changed, such as its state, job or pause; times and temperatures do not count."""

    type: Literal["worker_changed"] = "worker_changed"


class WorkerLeft(_Change):
    """A worker has left; with `died`, its record expired, which another worker has noticed. `name` is empty then."""

    type: Literal["worker_left"] = "worker_left"
    worker: Name
    name: Name = ""
    died: bool = False


class _OfPause(_Change):
    of: Name
    id: Name
    name: Cleaned


class Paused(_OfPause):
    """An operator paused a worker or a queue.

    `of` is "worker" or "queue", `id` the worker's id or the variant; `by` is who did it.
    """

    type: Literal["paused"] = "paused"
    by: Cleaned = ""


class Unpaused(_OfPause):
    """An operator unpaused a worker or a queue."""

    type: Literal["unpaused"] = "unpaused"


Change = (
    JobSubmitted
    | JobStatus
    | JobCancelAsked
    | JobPaused
    | JobUnpaused
    | JobPriority
    | JobRemoved
    | BatchSubmitted
    | BatchRemoved
    | WorkerCame
    | WorkerChanged
    | WorkerLeft
    | Paused
    | Unpaused
)

_adapter: TypeAdapter[Change] = TypeAdapter(Annotated[Change, Field(discriminator="type")])


class UnreadableChange(Exception):
    """A message is damaged; the text says how, in a sentence."""


def parse_change(data: bytes | str) -> Change | None:
    """Return the message in `data`, or None if its kind belongs to a newer version.

    Raises:
        UnreadableChange: The data is damaged.
    """
    try:
        return parse_tagged(_adapter, data)
    except ValueError as error:
        raise UnreadableChange(f"a message is damaged ({error})") from error
