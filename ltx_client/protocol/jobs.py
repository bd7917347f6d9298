"""Define what a client writes: the job, which never changes after it was submitted, and its relations to other jobs."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, WrapSerializer
from uuid_utils import uuid7

from ltx_client.protocol import PROTOCOL_VERSION
from ltx_client.protocol.fair_turns import DEFAULT_PRIORITY
from ltx_client.protocol.names import queue_name
from ltx_client.protocol.validation import READING, Name, first_error
from ltx_client.protocol.versions.features import FEATURES, highest_level, level_of
from ltx_client.protocol.versions.newer import newer_parts, shown_place, without
from ltx_models.errors import InvalidRequest, UnknownVariant
from ltx_models.families.variants import find_variant
from ltx_models.memory import memory_class
from ltx_models.request import GenerationRequest, limits_lifted

__all__ = [
    "NO_RELATIONS",
    "RENDER_TASK",
    "Job",
    "JobId",
    "NewerJob",
    "NewerVersion",
    "Relations",
    "UnreadableJob",
    "job_digest",
    "new_job_id",
    "parse_job",
    "parse_priority",
    "parse_relations",
]

RENDER_TASK = "render"
"""Name of the Celery task. The task's id and its only argument are the job's id."""

JobId = Annotated[str, Field(pattern=r"^[0-9a-zA-Z][0-9a-zA-Z-]{0,63}$")]
"""A job's id; since it becomes part of key and file names, it has letters, digits and hyphens only."""
VariantName = Annotated[str, Field(pattern=r"^[0-9a-zA-Z][0-9a-zA-Z._-]{0,63}$")]
"""A variant's name; it becomes part of a queue's key, so it has no colon, which would make it another kind of key."""


def _without_unset_features(request: GenerationRequest, serialize: SerializerFunctionWrapHandler) -> Any:
    """Leave out fields that older workers do not know where a job does not use them: they refuse records with them."""
    data = serialize(request)
    for path in (path for feature in FEATURES for path in feature.fields):
        _, _, inside = path.partition(".")
        _drop_unset(data, inside.split("."))
    return data


def _drop_unset(data: Any, path: list[str]) -> None:
    name, *rest = path
    if name == "*":
        for item in data:
            _drop_unset(item, rest)
    elif rest:
        _drop_unset(data[name], rest)
    elif name in data and data[name] in (None, (), [], ""):
        del data[name]


class Job(BaseModel):
    """One render as it was submitted.

    Attributes:
        request: The resolved request: no field that the variant decides is None.
        priority: From 0 (first) to 9 (last).
        checkpoint_every: Steps between preview frames, 0 for none.
        predicted_peak: Bytes.
        time_limit: Seconds that one attempt may take.
        submitter: Who submitted it, as USER@HOST.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    id: JobId
    protocol: int = PROTOCOL_VERSION
    variant: VariantName
    request: Annotated[GenerationRequest, WrapSerializer(_without_unset_features)]
    priority: Annotated[int, Field(ge=0, le=9)] = DEFAULT_PRIORITY
    checkpoint_every: Annotated[int, Field(ge=0, le=1000)] = 3
    predicted_peak: Annotated[int, Field(ge=0, lt=2**63)]
    time_limit: Annotated[float, Field(gt=0, le=1e9)] | None = None
    submitter: Annotated[Name, Field(max_length=200)]

    @property
    def queue(self) -> str:
        """Return the name of the Celery queue that serves the job.

        Raises:
            InvalidRequest: The job needs more memory than the largest memory class has.
        """
        return queue_name(self.variant, memory_class(self.predicted_peak), self.level)

    @property
    def level(self) -> int:
        """Return the level of the features that the job needs (`ltx_client.protocol.versions.features`)."""
        return level_of(self)

    @property
    def inputs(self) -> set[str]:
        """Return the SHA-256, in hex, of each picture and clip that the job reads from the storage."""
        sources = (item.source for item in self.request.conditioning)
        return {source.removeprefix("sha256:") for source in sources if source.startswith("sha256:")}


class Relations(BaseModel):
    """A job's relations to other jobs, its batch and workers.

    They are stored next to the job's own record, so that a worker that does not know them renders the job all the same.

    Attributes:
        batch: Its batch.
        item: Its place in the batch, from 1.
        retry_of: The job that it replaces.
        after_jobs: Jobs that it depends on: they must have ended, in whatever way, before a message brings it to a
            worker.
        after_batches: Batches that it depends on in the same way.
        not_on: Names or ids of workers that must not render it.
    """

    model_config = ConfigDict(frozen=True)

    batch: JobId | None = None
    item: Annotated[int, Field(ge=0, lt=10**9)] | None = None
    retry_of: JobId | None = None
    after_jobs: tuple[JobId, ...] = ()
    after_batches: tuple[JobId, ...] = ()
    not_on: tuple[Name, ...] = ()

    def excludes(self, worker_id: str, name: str) -> bool:
        """Return whether the job must not be rendered by the worker with this id and name."""
        return not {worker_id, name}.isdisjoint(self.not_on)

    @property
    def waits(self) -> bool:
        """Return whether the job depends on others."""
        return bool(self.after_jobs or self.after_batches)


NO_RELATIONS = Relations()


class NewerJob(Job):
    """A job of a newer version: what this version knows of it, to be shown and never rendered or submitted.

    Attributes:
        newer: What this version does not know, and what to do, in a sentence.
        mentioned: Each SHA-256 of an input that its record mentions anywhere.
    """

    newer: Annotated[str, Field(exclude=True)]
    mentioned: Annotated[frozenset[str], Field(exclude=True)] = frozenset()

    @property
    def inputs(self) -> set[str]:
        """Return the SHA-256 of whatever the job may read from the storage, also by fields that are unknown here."""
        return set(self.mentioned)

    @property
    def level(self) -> int:
        """Return a level that this version does not read."""
        return highest_level() + 1


class UnreadableJob(Exception):
    """A job record cannot be read by this version; the message says why, in a sentence."""


class NewerVersion(UnreadableJob):
    """A newer version has written the record.

    Attributes:
        job: What this version knows of the job, if it is a job's record and enough of it is known.
    """

    def __init__(self, message: str, job: NewerJob | None = None) -> None:
        super().__init__(message)
        self.job = job


def parse_job(spec: bytes | str, job_id: str | None = None) -> Job:
    """Return the job in a record.

    Args:
        spec: The record, as JSON.
        job_id: The job whose record it must be; None to accept any.

    Raises:
        NewerVersion: The record has fields, words or a protocol version that this version does not know, or values
            beyond its limits, which a newer version or a family that is not installed here may take.
        UnreadableJob: The record belongs to an older protocol version or to another job, or is damaged.
    """
    try:
        protocol = _Versioned.model_validate_json(spec).protocol
        if protocol != PROTOCOL_VERSION:
            older = "worker or client" if protocol > PROTOCOL_VERSION else "one that submitted it"
            why = (
                f"it was submitted with protocol version {protocol}, but this side speaks version {PROTOCOL_VERSION};"
                f" upgrade the older side (the {older})"
            )
            if protocol < PROTOCOL_VERSION:
                raise UnreadableJob(why)
            raise NewerVersion(why, _known_part(spec, job_id, why))
        try:
            job = Job.model_validate_json(spec, context=READING)
        except ValidationError as error:
            places = newer_parts(error, beside=_BEYOND_LIMITS)
            if places:
                why = (
                    f"a newer version has submitted it ({shown_place(places[0])} is unknown to this one); upgrade the"
                    " older side (the worker or client)"
                )
            elif _is_only_of(error, _BEYOND_LIMITS):
                why = _why_beyond(first_error(error))
            else:
                raise
            try:
                known = _known_part(spec, job_id, why)
            except ValidationError:
                if places:
                    raise
                raise error from None  # in the words of this version's limits
            raise NewerVersion(why, known) from error
        if job_id is not None and job.id != job_id:
            raise UnreadableJob("its record is damaged (id: it belongs to another job)")
        if missing := [name for name in _DECIDED if getattr(job.request, name) is None]:
            raise UnreadableJob(f"its record is damaged (request.{missing[0]}: it is missing)")
        memory_class(job.predicted_peak)
        if beyond := _beyond_its_family(job):
            why = _why_beyond(beyond)
            raise NewerVersion(why, _known_part(spec, job_id, why))
    except ValidationError as error:
        raise UnreadableJob(f"its record is damaged ({first_error(error)})") from error
    except InvalidRequest as error:
        raise NewerVersion(f"no queue serves it: {error}") from error
    except (ValueError, ArithmeticError, RecursionError) as error:  # unforeseen numbers or nesting
        raise UnreadableJob(f"its record is damaged ({type(error).__name__})") from error
    return job


def _known_part(spec: bytes | str, job_id: str | None, why: str) -> NewerJob | None:
    """Return what this version knows of a newer job; None if that is not enough to show.

    Raises:
        ValidationError: The record speaks this version's protocol, but fields that this version knows are damaged.
        UnreadableJob: Likewise, or it belongs to another job.
    """
    record: bytes | str = json.dumps({**json.loads(spec), "newer": why})
    is_of_this_protocol = _Versioned.model_validate_json(spec).protocol == PROTOCOL_VERSION
    try:
        for _ in range(KNOWN_PART_TRIES):
            try:
                with limits_lifted():
                    known = NewerJob.model_validate_json(record, context=READING)
                break
            except ValidationError as error:
                if not (places := newer_parts(error, beside=_BEYOND_BOUNDS)):
                    raise
                record = without(record, places)
        else:
            return None
        memory_class(known.predicted_peak)
    except ValidationError as error:
        if is_of_this_protocol and not _is_only_of(error, _BEYOND_BOUNDS):
            raise
        return None
    except InvalidRequest:  # no memory class of this version is large enough
        return None
    missing = [name for name in _DECIDED if getattr(known.request, name) is None]
    if job_id is not None and known.id != job_id:
        raise UnreadableJob("its record is damaged (id: it belongs to another job)")
    if missing and is_of_this_protocol:
        raise UnreadableJob(f"its record is damaged (request.{missing[0]}: it is missing)")
    mentioned = frozenset(_INPUT.findall(spec if isinstance(spec, str) else spec.decode(errors="replace")))
    return None if missing else known.model_copy(update={"mentioned": mentioned})


def _is_only_of(error: ValidationError, types: frozenset[str]) -> bool:
    """Return whether nothing else is wrong than errors of these types."""
    return types.issuperset(detail["type"] for detail in error.errors(include_url=False, include_context=False))


def _beyond_its_family(job: Job) -> str:
    """Return what the family of the job's variant does not take, though another family does; "" if it takes all."""
    try:
        job.request.check_limits(find_variant(job.variant).family.limits)
    except InvalidRequest as error:
        return str(error)
    except UnknownVariant:  # its workers know the limits
        return ""
    return ""


def _why_beyond(what: str) -> str:
    return (
        f"a newer version, or one with other model families, has submitted it: values are beyond the limits of this"
        f" one ({what}); upgrade the older side (the worker or client)"
    )


def parse_priority(data: bytes | None) -> int | None:
    """Return the priority that was set for a job after it was submitted; None if there is none that can be read."""
    return int(data) if data and data.isdigit() and len(data) == 1 else None


def parse_relations(data: bytes | str | None) -> Relations:
    """Return the relations in a record; NO_RELATIONS if there is no record, or none that can be read."""
    try:
        return Relations.model_validate_json(data, context=READING) if data else NO_RELATIONS
    except ValidationError:
        return NO_RELATIONS


_DECIDED = ("width", "height", "num_frames", "num_steps", "frame_rate")
"""Fields that a job's request must contain, since the farm computes with them; the client takes them from the variant.
"""


_BEYOND_BOUNDS = frozenset({"less_than_equal", "string_too_long"})
"""Types of errors of values that are larger than a job's fields may be in this version; a newer one may extend them."""
_BEYOND_LIMITS = _BEYOND_BOUNDS | {"value_error"}
"""And of values that a request refuses: for a limit, or because no version could take them (`limits_lifted`)."""
_INPUT = re.compile(r"sha256:([0-9a-f]{64})")
KNOWN_PART_TRIES = 3
"""Unknown fields hide what is wrong inside of others, so that it is found one after the other."""


class _Versioned(BaseModel):
    protocol: int


def job_digest(job: Job) -> str:
    """Return the SHA-256 of a job's id, variant and request, which identifies what a saved file was made for."""
    return hashlib.sha256(job.model_dump_json(include={"id", "variant", "request"}).encode()).hexdigest()


def new_job_id() -> str:
    """Return a UUIDv7, which is unique without asking anybody. Jobs are ordered by the broker's time, never by id."""
    return str(uuid7())
