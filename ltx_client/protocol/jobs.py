"""What a client writes: the job, as submitted. It never changes afterwards."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from uuid_utils import uuid7

from ltx_client.protocol import PROTOCOL_VERSION
from ltx_client.protocol.names import queue_name
from ltx_models.memory import memory_class
from ltx_models.request import GenerationRequest

__all__ = ["DEFAULT_PRIORITY", "RENDER_TASK", "Job", "JobId", "UnreadableJob", "new_job_id", "parse_job"]

RENDER_TASK = "render"
"""Name of the Celery task. Its id is the job's id, its only argument too."""
DEFAULT_PRIORITY = 5

JobId = Annotated[str, Field(pattern=r"^[0-9a-zA-Z][0-9a-zA-Z-]{0,63}$")]
"""Becomes part of key and file names, and so is letters, digits and hyphens only."""


class Job(BaseModel):
    """One render, asked for. `request` is resolved: no field that the variant decides is None.

    priority: 0 (first) to 9 (last).  predicted_peak: bytes.  checkpoint_every: steps between preview
    frames, 0 for none.  time_limit: seconds that one attempt may take.  submitter: who asked, as USER@HOST.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: JobId
    protocol: int = PROTOCOL_VERSION
    variant: str
    request: GenerationRequest
    priority: Annotated[int, Field(ge=0, le=9)] = DEFAULT_PRIORITY
    checkpoint_every: Annotated[int, Field(ge=0, le=1000)] = 3
    predicted_peak: Annotated[int, Field(ge=0)]
    time_limit: Annotated[float, Field(gt=0)] | None = None
    submitter: Annotated[str, Field(max_length=200)]

    @property
    def queue(self) -> str:
        """The Celery queue that serves it. Raises InvalidRequest when no memory class holds it."""
        return queue_name(self.variant, memory_class(self.predicted_peak))


class UnreadableJob(Exception):
    """A job record that this version cannot read: in a sentence, why."""


def parse_job(spec: bytes | str) -> Job:
    """The job in a record. Raises UnreadableJob for one of another protocol version, or a damaged one."""
    try:
        protocol = _Versioned.model_validate_json(spec).protocol
        if protocol != PROTOCOL_VERSION:
            older = "worker or client" if protocol > PROTOCOL_VERSION else "one that submitted it"
            raise UnreadableJob(
                f"it was submitted with protocol version {protocol}, and version {PROTOCOL_VERSION} is spoken here;"
                f" upgrade the older side (the {older})"
            )
        return Job.model_validate_json(spec)
    except ValidationError as error:
        detail = error.errors()[0]
        field = ".".join(str(part) for part in detail["loc"])
        raise UnreadableJob(f"its record is damaged ({field or 'all of it'}: {detail['msg']})") from error


class _Versioned(BaseModel):
    protocol: int


def new_job_id() -> str:
    """A UUIDv7: unique without asking anybody. Order is by the broker's time, never by id."""
    return str(uuid7())
