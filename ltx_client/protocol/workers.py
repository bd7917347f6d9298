"""What a worker says of itself, renewed every few seconds: the fields of `worker:{id}`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from ltx_client.protocol import PROTOCOL_VERSION
from ltx_client.protocol.events import Count, Moment
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.text import shown
from ltx_client.protocol.validation import Cleaned, Name, Sentence
from ltx_models.families.variants import VARIANTS
from ltx_models.memory import GB, memory_class, predict_peak

__all__ = [
    "CLIP_PARTS",
    "HELD",
    "ID_TAIL",
    "OFF_DUTY",
    "PAUSED",
    "UNREADY",
    "Gigabytes",
    "ThreadInfo",
    "WorkerInfo",
    "fits_gpu",
    "worker_names",
]

CLIP_PARTS = "clip-parts"
"""A worker's feature: it reads the parts of clips that a job names, and of others their ends."""
LARGEST_MEMORY = 10**15
"""Bytes; like the bounds of the other numbers here, far beyond what is, and short in a table."""
Gigabytes = Annotated[float, Field(gt=0, le=LARGEST_MEMORY / 1e9)]
ID_TAIL = 8
"""Characters of a worker's id that tell it from others of its name."""

PAUSED = "paused"
"""The state of a worker that takes no jobs until somebody has looked at its machine."""
HELD = "held"
"""The state of a worker that takes no jobs since somebody has paused it, or its queue, until that is resumed."""
OFF_DUTY = "off duty"
"""The state of a worker whose machine is not to work now: it is on battery, or in use, or it is not the hour."""


UNREADY = "unready"
"""The state of a worker that takes no jobs since one of its threads cannot go on; it ends soon, to be started again."""


class ThreadInfo(BaseModel):
    """What is known of a worker's threads of one kind, such as "leases", or "events" for those of all attempts.

    beat_at: when it last had done a piece of its work; None where no such thread runs now.  errors: since the worker
    started.  error, error_at: the last one, and when.  failing: whether it has done nothing since.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: Cleaned
    beat_at: Moment | None = None
    errors: Count = 0
    error: Sentence = ""
    error_at: Moment | None = None
    failing: bool = False


class WorkerInfo(BaseModel):
    """A live worker. memory in bytes, budget in GB (10**9 bytes), times in seconds since 1970.

    gpu_gb: what its GPU may use of that memory, where it may not use all of it.
    state: "idle", "rendering", "resting" (after its engine died, for some seconds), PAUSED, HELD, OFF_DUTY or
    UNREADY.
    why_paused: a sentence, for the latter four; also while the job is rendered that was in hand when it was held, or
    when its duty ended.
    temperature: of its hottest sensor, in degrees Celsius.  thermal_pressure: a Mac's, from "nominal" to "sleeping".
    Either is None where it cannot be read.
    job: the id of the job in hand, or empty.
    threads: what is known of each kind of its threads.
    storage: the id of the storage that it uses; empty from an older worker.
    features: what it can do that older ones cannot, as words with blanks between: CLIP_PARTS.
    run: of its process: another one has written this since the worker was restarted.  note: what an operator should
    know of it, in a sentence, or empty.
    failure: why the last attempt that failed here did so, since the worker started: a sentence, or empty.  failed_job,
    failed_at: which, and when.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    id: Name
    name: Name
    chip: Name
    memory: Annotated[int, Field(ge=0, le=LARGEST_MEMORY)]
    budget_gb: Gigabytes
    gpu_gb: Gigabytes | None = None
    variant: Name
    version: Name
    protocol: Annotated[int, Field(ge=0, lt=10**6)] = PROTOCOL_VERSION
    started_at: Moment
    seen_at: Moment
    state: Name = "idle"
    job: Name = ""
    why_paused: Sentence = ""
    run: Name = ""
    note: Sentence = ""
    storage: Name = ""
    temperature: Annotated[float, Field(ge=-273.15, lt=10_000)] | None = None
    thermal_pressure: Name | None = None
    failure: Sentence = ""
    failed_job: Name = ""
    failed_at: Moment | None = None
    threads: tuple[ThreadInfo, ...] = ()
    features: Name = ""

    @field_validator("temperature", "thermal_pressure", "failed_at", "gpu_gb", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("threads", mode="before")
    @classmethod
    def _parse_threads(cls, value: Any) -> Any:
        """As they lie in Redis. Those of another version, or damaged ones, are none: the worker is alive anyway."""
        if not isinstance(value, str | bytes):
            return value
        try:
            return _threads.validate_json(value or "[]")
        except ValidationError:
            return ()

    def fields(self) -> dict[str, str | int | float]:
        """As it lies in Redis, where None is the empty string; for others to read, and so as it may be shown."""
        values = {
            name: shown(value) if isinstance(value, str) else "" if value is None else value
            for name, value in self.model_dump(exclude={"threads"}).items()
        }
        return {**values, "threads": _threads.dump_json(self.threads).decode()}

    def serves(self, job: Job) -> bool:
        """Whether it takes jobs like this one."""
        if self.state in (PAUSED, HELD, OFF_DUTY, UNREADY) or self.variant != job.variant:
            return False
        return self.budget_gb >= memory_class(job.predicted_peak) and fits_gpu(job, self.gpu_gb)


def fits_gpu(job: Job, gpu_gb: float | None) -> bool:
    """Return whether a job fits what a GPU may use of the memory, in GB; None: all that the variant needs.

    A variant's memory classes are steps of a ladder; between two of them, a size may be too large for such a GPU.
    """
    variant = VARIANTS.get(job.variant)
    if gpu_gb is None or variant is None or gpu_gb >= variant.ram_gb:
        return True
    limit = int(gpu_gb * GB)
    return predict_peak(variant, job.request, limit) <= limit


_threads: TypeAdapter[tuple[ThreadInfo, ...]] = TypeAdapter(tuple[ThreadInfo, ...])


def worker_names(workers: Sequence[WorkerInfo]) -> dict[str, str]:
    """What to call each, by its id: its name, where others have the same one with the last characters of its id."""
    count = Counter(worker.name for worker in workers)
    return {one.id: one.name if count[one.name] == 1 else f"{one.name} ({one.id[-ID_TAIL:]})" for one in workers}
