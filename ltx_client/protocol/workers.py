"""Define what a worker reports about itself every few seconds: the fields of `worker:{id}`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from ltx_client.protocol import PROTOCOL_VERSION
from ltx_client.protocol.events import Count, Moment
from ltx_client.protocol.jobs import Job, NewerJob
from ltx_client.protocol.text import shown
from ltx_client.protocol.validation import Cleaned, Name, Sentence
from ltx_client.protocol.versions.features import is_newer, needed_features
from ltx_models.families.variants import VARIANTS
from ltx_models.memory import GB, memory_class, predict_peak

__all__ = [
    "ID_TAIL",
    "OFF_DUTY",
    "PAUSED",
    "PAUSED_BY_USER",
    "UNREADY",
    "Gigabytes",
    "ThreadInfo",
    "WorkerInfo",
    "fits_gpu",
    "worker_names",
]

LARGEST_MEMORY = 10**15
"""Bytes; like the bounds of the other numbers here, far beyond any real value, and short in a table."""
Gigabytes = Annotated[float, Field(gt=0, le=LARGEST_MEMORY / 1e9)]
ID_TAIL = 8
"""Characters of a worker's id that distinguish it from other workers with its name."""

PAUSED = "paused"
"""The state of a worker that takes no jobs until somebody has fixed its machine."""
PAUSED_BY_USER = "held"
"""The state of a worker that takes no jobs while an operator has paused it or its queue."""
OFF_DUTY = "off duty"
"""The state of a worker outside its duty hours, or whose machine is on battery or in use."""


UNREADY = "unready"
"""The state of a worker that takes no jobs since one of its threads has failed; it exits soon, to be restarted."""


class ThreadInfo(BaseModel):
    """The condition of a worker's threads of one kind, such as "leases", or "events" for those of all attempts.

    Attributes:
        beat_at: When one last finished a piece of its work; None if no such thread runs now.
        errors: How many there were since the worker started.
        error: The last error.
        error_at: When the last error occurred.
        failing: Whether no work was done since the last error.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: Cleaned
    beat_at: Moment | None = None
    errors: Count = 0
    error: Sentence = ""
    error_at: Moment | None = None
    failing: bool = False


class WorkerInfo(BaseModel):
    """A live worker. Times are seconds since 1970.

    Attributes:
        memory: Bytes.
        budget_gb: GB (10**9 bytes) that a render may use.
        gpu_gb: GB that the GPU may use, if it may not use all of that.
        state: "idle", "rendering", "resting" (for some seconds after its engine died), PAUSED, PAUSED_BY_USER,
            OFF_DUTY or UNREADY.
        why_paused: A sentence for the latter four states; also while a job that was running then is rendered to its
            end.
        temperature: Of its hottest sensor, in degrees Celsius; None if it cannot be read.
        thermal_pressure: A Mac's, from "nominal" to "sleeping"; None if it cannot be read.
        job: The id of the job that it renders, or empty.
        threads: The condition of its threads, one entry for each kind.
        storage: The id of the storage that it uses; empty for an older worker.
        features: What it can do that older workers cannot, as words separated by spaces; empty for a worker that is
            older than features (`ltx_client.protocol.versions.features`).
        run: The id of its process; a restarted worker has another one.
        note: A sentence that an operator should read, or empty.
        failure: Why the last failed attempt on this worker failed, since it started: a sentence, or empty.
        failed_job: The job of that attempt.
        failed_at: When it failed.
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
        """Parse the entries as they are stored in Redis. Those of another version, and damaged ones, are dropped."""
        if not isinstance(value, str | bytes):
            return value
        try:
            return _threads.validate_json(value or "[]")
        except ValidationError:
            return ()

    def fields(self) -> dict[str, str | int | float]:
        """Return the fields as they are stored in Redis: empty strings for None, and texts as they may be shown."""
        values = {
            name: shown(value) if isinstance(value, str) else "" if value is None else value
            for name, value in self.model_dump(exclude={"threads"}).items()
        }
        return {**values, "threads": _threads.dump_json(self.threads).decode()}

    def serves(self, job: Job) -> bool:
        """Return whether the worker takes jobs like this one."""
        return self.has_room(job) and self.reads(job)

    def reads(self, job: Job) -> bool:
        """Return whether the worker's version has the features that a job needs.

        Of a job that is newer than this version, only a worker that is newer too may read it.
        """
        features = self.features.split()
        newer = is_newer(features) or self.protocol > PROTOCOL_VERSION
        return needed_features(job).issubset(features) and (newer or not isinstance(job, NewerJob))

    def has_room(self, job: Job) -> bool:
        """Return whether the worker takes jobs of this one's variant and memory, as far as its version reads them."""
        if self.state in (PAUSED, PAUSED_BY_USER, OFF_DUTY, UNREADY) or self.variant != job.variant:
            return False
        return self.budget_gb >= memory_class(job.predicted_peak) and fits_gpu(job, self.gpu_gb)


def fits_gpu(job: Job, gpu_gb: float | None) -> bool:
    """Return whether a job fits what a GPU may use of the memory.

    A variant's memory classes are steps of a ladder; between two of them, a size may be too large for such a GPU.

    Args:
        job: The job.
        gpu_gb: GB that the GPU may use; None for all that the variant needs.
    """
    variant = VARIANTS.get(job.variant)
    if gpu_gb is None or variant is None or gpu_gb >= variant.ram_gb:
        return True
    limit = int(gpu_gb * GB)
    return predict_peak(variant, job.request, limit) <= limit


_threads: TypeAdapter[tuple[ThreadInfo, ...]] = TypeAdapter(tuple[ThreadInfo, ...])


def worker_names(workers: Sequence[WorkerInfo]) -> dict[str, str]:
    """Return each worker's name by its id, followed by the id's last characters if other workers have the same name."""
    count = Counter(worker.name for worker in workers)
    return {one.id: one.name if count[one.name] == 1 else f"{one.name} ({one.id[-ID_TAIL:]})" for one in workers}
