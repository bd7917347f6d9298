"""What a client writes: the job, as submitted, which never changes; and beside it what it has to do with other jobs."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, WrapSerializer
from uuid_utils import uuid7

from ltx_client.protocol import PROTOCOL_VERSION
from ltx_client.protocol.names import queue_name
from ltx_client.protocol.turns import DEFAULT_PRIORITY
from ltx_client.protocol.validation import READING, Name, first_error
from ltx_models.errors import InvalidRequest
from ltx_models.memory import memory_class
from ltx_models.request import GenerationRequest

__all__ = [
    "NO_LINKS",
    "RENDER_TASK",
    "Job",
    "JobId",
    "Links",
    "UnreadableJob",
    "job_digest",
    "new_job_id",
    "parse_job",
    "parse_links",
    "parse_priority",
]

RENDER_TASK = "render"
"""Name of the Celery task. Its id is the job's id, its only argument too."""

JobId = Annotated[str, Field(pattern=r"^[0-9a-zA-Z][0-9a-zA-Z-]{0,63}$")]
"""Becomes part of key and file names, and so is letters, digits and hyphens only."""
VariantName = Annotated[str, Field(pattern=r"^[0-9a-zA-Z][0-9a-zA-Z._-]{0,63}$")]
"""Becomes part of a queue's name, and so of a key: with a colon it could be that of another kind of key."""


def _without_unset_parts(request: GenerationRequest, serialize: SerializerFunctionWrapHandler) -> Any:
    """Leave out what older workers do not know, where a job does not use it: they refuse a record that has it."""
    data = serialize(request)
    for item in data["conditioning"]:
        for name in ("start", "stop"):
            if item[name] is None:
                del item[name]
    return data


class Job(BaseModel):
    """One render, asked for. `request` is resolved: no field that the variant decides is None.

    priority: 0 (first) to 9 (last).  predicted_peak: bytes.  checkpoint_every: steps between preview
    frames, 0 for none.  time_limit: seconds that one attempt may take.  submitter: who asked, as USER@HOST.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    id: JobId
    protocol: int = PROTOCOL_VERSION
    variant: VariantName
    request: Annotated[GenerationRequest, WrapSerializer(_without_unset_parts)]
    priority: Annotated[int, Field(ge=0, le=9)] = DEFAULT_PRIORITY
    checkpoint_every: Annotated[int, Field(ge=0, le=1000)] = 3
    predicted_peak: Annotated[int, Field(ge=0, lt=2**63)]
    time_limit: Annotated[float, Field(gt=0, le=1e9)] | None = None
    submitter: Annotated[Name, Field(max_length=200)]

    @property
    def queue(self) -> str:
        """The Celery queue that serves it. Raises InvalidRequest when no memory class holds it."""
        return queue_name(self.variant, memory_class(self.predicted_peak))

    @property
    def inputs(self) -> set[str]:
        """What it is given through the storage: the SHA-256 of each picture and clip, in hex."""
        sources = (item.source for item in self.request.conditioning)
        return {source.removeprefix("sha256:") for source in sources if source.startswith("sha256:")}


class Links(BaseModel):
    """What a job has to do with others. Beside the job's own record, so that a worker that does not know of it renders
    the job all the same.

    batch: its batch; item: its place there, from 1.  retry_of: the job that it stands in for.
    after_jobs, after_batches: what must have ended, in whatever way, before a message brings it to a worker.
    not_on: names or ids of workers that leave it to others.
    """

    model_config = ConfigDict(frozen=True)

    batch: JobId | None = None
    item: Annotated[int, Field(ge=0, lt=10**9)] | None = None
    retry_of: JobId | None = None
    after_jobs: tuple[JobId, ...] = ()
    after_batches: tuple[JobId, ...] = ()
    not_on: tuple[Name, ...] = ()

    def excludes(self, worker_id: str, name: str) -> bool:
        """Return whether the job is kept from the worker of this id and name."""
        return not {worker_id, name}.isdisjoint(self.not_on)

    @property
    def waits(self) -> bool:
        """Whether it names jobs to wait for."""
        return bool(self.after_jobs or self.after_batches)


NO_LINKS = Links()


class UnreadableJob(Exception):
    """A job record that this version cannot read: in a sentence, why."""


def parse_job(spec: bytes | str, job_id: str | None = None) -> Job:
    """The job in a record, which is `job_id`'s where that is given. Raises UnreadableJob for one of another protocol
    version, or a damaged one.
    """
    try:
        protocol = _Versioned.model_validate_json(spec).protocol
        if protocol != PROTOCOL_VERSION:
            older = "worker or client" if protocol > PROTOCOL_VERSION else "one that submitted it"
            raise UnreadableJob(
                f"it was submitted with protocol version {protocol}, and version {PROTOCOL_VERSION} is spoken here;"
                f" upgrade the older side (the {older})"
            )
        job = Job.model_validate_json(spec, context=READING)
        if job_id is not None and job.id != job_id:
            raise UnreadableJob("its record is damaged (id: it is another job's)")
        memory_class(job.predicted_peak)
        if missing := [name for name in _DECIDED if getattr(job.request, name) is None]:
            raise UnreadableJob(f"its record is damaged (request.{missing[0]}: it is not decided)")
    except ValidationError as error:
        raise UnreadableJob(f"its record is damaged ({first_error(error)})") from error
    except InvalidRequest as error:
        raise UnreadableJob(f"no queue is for it: {error}") from error
    except (ValueError, ArithmeticError, RecursionError) as error:  # of numbers and nesting that nobody foresaw
        raise UnreadableJob(f"its record is damaged ({type(error).__name__})") from error
    return job


def parse_priority(data: bytes | None) -> int | None:
    """The priority that was wished for a job since it was submitted; None where there is none that can be read."""
    return int(data) if data and data.isdigit() and len(data) == 1 else None


def parse_links(data: bytes | str | None) -> Links:
    """The links in a record; none where there are none, or none that can be read."""
    try:
        return Links.model_validate_json(data, context=READING) if data else NO_LINKS
    except ValidationError:
        return NO_LINKS


_DECIDED = ("width", "height", "num_frames", "num_steps", "frame_rate")
"""What a job's request never leaves to the variant, and what is computed with."""


class _Versioned(BaseModel):
    protocol: int


def job_digest(job: Job) -> str:
    """Return the SHA-256 of a job's id, variant and request: with what is saved of a render goes what it is of."""
    return hashlib.sha256(job.model_dump_json(include={"id", "variant", "request"}).encode()).hexdigest()


def new_job_id() -> str:
    """A UUIDv7: unique without asking anybody. Order is by the broker's time, never by id."""
    return str(uuid7())
