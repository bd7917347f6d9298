"""Describe jobs, batches, workers, places in the queue and statistics for programs, as data that JSON allows.

What each field means stands here and nowhere else. Every `--json`, the index of a downloaded batch and a webhook have
what these functions return, and a program has the same of a `Farm` or an `AsyncFarm`:
`describe_job(await farm.view(job_id))`.

Times are seconds since 1970 by the broker's clock, durations are seconds, sizes are bytes unless the name says
otherwise, and ids are texts. A field may be added at any time; none is renamed, or changes its meaning.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from statistics import median
from typing import Any, NotRequired, cast

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from ltx_client.farm.batches import Batch
from ltx_client.farm.jobs.forecast import Place
from ltx_client.farm.jobs.inputs import ClipPart
from ltx_client.farm.jobs.views import JobView
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import WorkerInfo

__all__ = [
    "BatchJson",
    "ClipJson",
    "CutTextJson",
    "EndedJobJson",
    "EndedJson",
    "IndexEntryJson",
    "JobJson",
    "PauseJson",
    "PlaceJson",
    "RelationsJson",
    "ResultJson",
    "StageJson",
    "StateJson",
    "StatsJson",
    "ThreadJson",
    "WorkerJson",
    "count_by_status",
    "describe_batch",
    "describe_end",
    "describe_index_entry",
    "describe_job",
    "describe_place",
    "describe_stats",
    "describe_worker",
]


class RelationsJson(TypedDict, total=False):
    """What a job has to do with others. A field that says nothing is left out."""

    batch: str
    """The id of its batch."""
    item: int
    """Its place in the batch, from 1. A job that is tried again has the place of the one before it."""
    retry_of: str
    """The id of the job that it stands in for."""
    after_jobs: list[str]
    """Ids of jobs that must have ended, in whatever way, before it is rendered."""
    after_batches: list[str]
    """Ids of batches that must have ended before it is rendered."""
    not_on: list[str]
    """Names or ids of workers that leave it to others."""


class ResultJson(TypedDict):
    """The files of a finished job."""

    video: str
    """The MP4's name, below the storage's URL."""
    sidecar: str
    """The name of the JSON file beside it, which says how it was made."""
    size: int
    """Bytes of the MP4."""
    sha256: str
    """The SHA-256 of the MP4, in hex."""
    poster: str | None
    """The name of the JPEG beside it, the video's middle frame; null where there is none, as of older workers."""
    poster_sha256: str
    """The SHA-256 of the poster, in hex; empty where there is none."""


class CutTextJson(TypedDict):
    """A text that is longer than what the text encoder reads of it."""

    text: str
    """Name the text: `prompt` or `negative prompt`."""
    tokens: int
    """How many tokens it has."""
    read: int
    """How many of them, from the first on, are read."""


class StageJson(TypedDict):
    """A stage of a job's render."""

    name: str
    """What its events call it."""
    label: str
    """Say in words what is done in it."""
    counts: str
    """What its progress counts, such as `step` or `frame`."""
    of: int | None
    """How many of them there are; null where that is unknown before."""
    done: int
    """How many are done."""
    seconds: float | None
    """What one of them takes in this attempt: a moving average; null before the first is done."""


class StateJson(TypedDict):
    """A job's state, as the events of its workers have made it."""

    status: str
    """`queued`, `running`, `done`, `failed` or `cancelled`, as its worker has said last."""
    seq: int
    """How many events there were: the number of the last one."""
    attempt: int
    """The number of its last attempt, from 1; 0 before the first."""
    worker: str | None
    """The id of the worker that renders it, or did last."""
    worker_name: str | None
    """That worker's name."""
    stage: str
    """Say in words what is being done."""
    message: str | None
    """What its worker says about it, in a sentence."""
    fraction: float | None
    """How much of the model is loaded, from 0 to 1, while it is loaded."""
    step: int
    """How many denoising steps are done."""
    steps: int | None
    """How many there are; null before its first attempt."""
    step_seconds: float | None
    """What a step of this attempt takes: a moving average."""
    lost_steps: int
    """How many steps were done twice, since an attempt ended early."""
    preview_step: int | None
    """The step after which the newest preview was taken."""
    started_at: float | None
    """When its first attempt began."""
    updated_at: float | None
    """When its last event happened."""
    ended_at: float | None
    """When it ended."""
    error: str | None
    """Why it failed, in a sentence or two."""
    result: ResultJson | None
    """Its files, when it is done."""
    cut: list[CutTextJson]
    """The texts that are longer than what is read of them."""
    stages: list[StageJson]
    """The stages of its render, in order; none before its first attempt."""
    stage_name: str | None
    """The name of the stage that it is at; null while it waits, loads or is delivered."""


class PlaceJson(TypedDict):
    """Where a job that waits stands in the queue."""

    ahead: int
    """How many jobs the same workers take before it."""
    starts_in: float | None
    """Seconds until it begins; null where nothing like it was measured, or no worker serves it."""
    takes: float | None
    """Seconds that it takes then; null as before."""


class PauseJson(TypedDict):
    """A queue or worker that an operator has paused."""

    of: str
    """`worker` or `queue`."""
    id: str
    """The worker's id; of a queue, its variant."""
    name: str
    """The worker's name; of a queue, its variant."""
    by: str
    """Who paused it, as USER@HOST."""
    at: float
    """When."""


class ClipJson(TypedDict):
    """What a job reads of a clip that it is given."""

    name: str
    """The file's name."""
    start: float | None
    """The second of the clip from which it is read; null with `stop` where the clip does not say how long it is."""
    stop: float | None
    """The second to which it is read."""
    frames: int
    """How many frames are read."""
    frame: int
    """The frame of the video where the first of them belongs; the video continues from them where it is 0."""


class JobJson(TypedDict):
    """A job."""

    id: str
    """Its id, which names it in every command and method."""
    status: str
    """`queued`, `running`, `done`, `failed` or `cancelled`; the last also for one that waits and was cancelled."""
    stage: str
    """Say in words what is being done, as its state does."""
    cancel_asked: bool
    """Whether somebody has asked for its end."""
    orphaned: bool
    """Whether it runs, and its worker has not been heard of for longer than a lease."""
    paused: bool
    """Whether it is paused."""
    links: RelationsJson
    """What it has to do with other jobs."""
    variant: str
    """The variant that renders it."""
    queue: str
    """The queue that it is in: its variant, and the class of memory that it needs, in GB; then `+` and a level where it
    needs a feature that older workers lack. Of a job with `newer` it is a guess: it waits at that level at least."""
    priority: int
    """From 0, which is first, to 9: as asked for last."""
    submitter: str
    """Who submitted it, as USER@HOST."""
    predicted_peak: int
    """The memory that it is predicted to need."""
    submitted_at: float
    """When it was submitted."""
    request: dict[str, Any]
    """What was asked for: the fields of `GenerationRequest`, the variant's values where none were given."""
    state: StateJson
    """How far it is."""
    place: NotRequired[PlaceJson]
    """Where it stands in the queue: of `ltx show` alone, while it waits for its turn."""
    queue_paused: NotRequired[PauseJson]
    """The pause of its queue: of `ltx show` alone, while there is one."""
    waits_for: NotRequired[str]
    """What it waits for that may never come by itself, in a sentence: of `ltx show` alone, where there is such."""
    newer: NotRequired[str]
    """What of the job this version does not know, and what to do, in a sentence: where a newer version has submitted
    it. Its request then has the known fields alone."""
    clips: NotRequired[list[ClipJson]]
    """What it reads of each clip: of `ltx submit` alone, where it is given clips."""


class BatchJson(TypedDict):
    """A batch."""

    id: str
    """Its id."""
    name: str
    """The name of the file that it was made from."""
    submitter: str
    """Who submitted it, as USER@HOST."""
    submitted_at: float
    """When it was submitted."""
    ended: bool
    """Whether nothing of it can change any more."""
    counts: dict[str, int]
    """How many of its videos have each status; those that none has are left out."""
    jobs: list[str]
    """List the id of the job of each video, in order: that of the newest retry."""


class IndexEntryJson(TypedDict):
    """A video of a batch, in the index of the folder that the batch was downloaded to."""

    item: int | None
    """Its place in the batch, from 1."""
    file: str
    """The path of its MP4, from that folder; the file is there if the job is done."""
    job: str
    """The id of its job: that of the newest retry."""
    status: str
    """That job's status."""
    error: str | None
    """Why it failed, in a sentence or two."""
    poster: str | None
    """The name of its poster, below the storage's URL; null where there is none."""
    variant: str
    """The variant that renders it."""
    request: dict[str, Any]
    """What was asked for: the fields of `GenerationRequest`, the variant's values where none were given."""


class EndedJobJson(TypedDict):
    """A job that has ended, for a webhook."""

    id: str
    """Its id."""
    status: str
    """`done`, `failed` or `cancelled`."""
    error: str | None
    """Why it failed, in a sentence or two."""
    prompt: str
    """Its prompt."""
    seed: int | None
    """Its seed."""
    video: str | None
    """The name of its MP4, below the storage's URL; null where it is not done."""
    poster: str | None
    """The name of its poster, a JPEG, below the storage's URL; null where there is none."""


class EndedJson(TypedDict):
    """What a webhook gets when the jobs that a command waited for have ended."""

    event: str
    """`ended`."""
    summary: str
    """Say in a few words how they ended."""
    batch: str | None
    """The id of their batch; null where they are of none, or of several."""
    jobs: list[EndedJobJson]
    """The jobs."""


class ThreadJson(TypedDict):
    """A worker's threads of one kind, such as `leases`."""

    name: str
    """The kind."""
    beat_at: float | None
    """When it last had done a piece of its work; null where no such thread runs now."""
    errors: int
    """How many errors it met since the worker started."""
    error: str
    """The last of them, in a sentence, or empty."""
    error_at: float | None
    """When that was."""
    failing: bool
    """Whether it has done nothing since."""


class WorkerJson(TypedDict):
    """A live worker, as it describes itself."""

    id: str
    """Its id, which it keeps when it starts again."""
    name: str
    """Its name, which others may have too."""
    chip: str
    """The chip that it renders on."""
    memory: int
    """The machine's memory."""
    budget_gb: float
    """The memory that its renders may use, in GB (10**9 bytes)."""
    gpu_gb: float | None
    """What its GPU may use of that, in GB; null where it may use all."""
    variant: str
    """The one variant that it serves."""
    version: str
    """The version of its software."""
    protocol: int
    """The version of the protocol that it speaks."""
    started_at: float
    """When it started."""
    seen_at: float
    """When it last wrote this."""
    state: str
    """`idle`, `rendering`, `resting` (for some seconds, after its engine died), or why it takes no jobs: `paused`
    (until somebody has looked at its machine), `held` (it or its queue was paused by `ltx pause`), `off duty`,
    `unready` (it ends soon, to be started again)."""
    job: str
    """The id of the job that it renders, or empty."""
    why_paused: str
    """Why it takes no jobs, or none after this one, in a sentence, or empty."""
    run: str
    """Identify its process: another one after a restart."""
    note: str
    """What an operator should know of it, in a sentence, or empty."""
    storage: str
    """The id of the storage that it uses; empty from an older worker."""
    temperature: float | None
    """The temperature of its hottest sensor, in degrees Celsius; null where it cannot be read."""
    thermal_pressure: str | None
    """How hard a Mac is slowed down, from `nominal` to `sleeping`; null where it cannot be read."""
    failure: str
    """Why the last attempt that failed here did so, in a sentence, or empty."""
    failed_job: str
    """The id of that attempt's job, or empty."""
    failed_at: float | None
    """When it failed."""
    threads: list[ThreadJson]
    """What is known of its threads, by kind."""
    features: str
    """What it can do that older ones cannot, as words with blanks between."""


class StatsJson(TypedDict):
    """What jobs of one variant did on one worker."""

    variant: str
    """The variant."""
    worker: str
    """The worker's name; empty for jobs that none has begun."""
    chip: str
    """Its chip; empty where it is not alive."""
    queued: int
    """How many jobs wait."""
    running: int
    """How many run."""
    done: int
    """How many are done."""
    failed: int
    """How many failed."""
    cancelled: int
    """How many were cancelled."""
    attempts: int
    """How many attempts there were, of all of them."""
    median_seconds: float | None
    """The median of how long those that are done took, from the first attempt's begin; null where none is."""
    median_step_seconds: float | None
    """The median of what their steps took; null where none is."""
    video_seconds: float
    """The length of their videos together."""


def describe_job(
    view: JobView,
    *,
    place: Place | None = None,
    queue_paused: Pause | None = None,
    waits_for: str = "",
    clips: Sequence[ClipPart] = (),
) -> JobJson:
    """Return a job's description; the fields of the last four arguments are in it where they say something."""
    snapshot = view.snapshot
    described: JobJson = {
        "id": view.job.id,
        "status": view.status,
        "stage": snapshot.doing,
        "cancel_asked": view.cancel_asked,
        "orphaned": view.orphaned,
        "paused": view.paused and not view.ended,
        "links": cast(RelationsJson, view.relations.model_dump(mode="json", exclude_defaults=True)),
        "variant": view.job.variant,
        "queue": view.job.queue,
        "priority": view.job.priority,
        "submitter": view.job.submitter,
        "predicted_peak": view.job.predicted_peak,
        "submitted_at": view.submitted_at,
        "request": view.job.model_dump(mode="json")["request"],
        "state": cast(StateJson, snapshot.model_dump(mode="json")),
    }
    if place is not None:
        described["place"] = describe_place(place)
    if queue_paused is not None:
        described["queue_paused"] = cast(PauseJson, queue_paused.model_dump())
    if waits_for:
        described["waits_for"] = waits_for
    if view.newer:
        described["newer"] = view.newer
    if clips:
        described["clips"] = [cast(ClipJson, clip._asdict()) for clip in clips]
    return described


def describe_place(place: Place) -> PlaceJson:
    """Return the description of a place in the queue."""
    return {"ahead": place.ahead, "starts_in": place.starts_in, "takes": place.takes}


def describe_batch(batch: Batch) -> BatchJson:
    """Return a batch's description."""
    return {
        "id": batch.id,
        "name": batch.name,
        "submitter": batch.submitter,
        "submitted_at": batch.submitted_at,
        "ended": batch.ended,
        "counts": count_by_status(batch.views),
        "jobs": [view.job.id for view in batch.views],
    }


def describe_index_entry(view: JobView, file: PurePath) -> IndexEntryJson:
    """Return the entry of a batch's video in the index of a folder.

    Args:
        view: The video's job.
        file: The path of the MP4, from that folder.
    """
    return {
        "item": view.relations.item,
        "file": str(file),
        "job": view.job.id,
        "status": view.status,
        "error": view.snapshot.error,
        "poster": view.snapshot.result.poster if view.snapshot.result else None,
        "variant": view.job.variant,
        "request": view.job.model_dump(mode="json")["request"],
    }


def describe_end(views: Sequence[JobView], summary: str) -> EndedJson:
    """Return what a webhook gets when jobs have ended, with a summary in a few words."""
    batches = {view.relations.batch for view in views}
    jobs: list[EndedJobJson] = [
        {
            "id": view.job.id,
            "status": view.status,
            "error": view.snapshot.error,
            "prompt": view.job.request.prompt,
            "seed": view.job.request.seed,
            "video": view.snapshot.result.video if view.snapshot.result else None,
            "poster": view.snapshot.result.poster if view.snapshot.result else None,
        }
        for view in views
    ]
    batch = batches.pop() if len(batches) == 1 else None
    return {"event": "ended", "summary": summary, "batch": batch, "jobs": jobs}


def describe_worker(worker: WorkerInfo) -> WorkerJson:
    """Return a worker's description."""
    return cast(WorkerJson, worker.model_dump(mode="json"))


def describe_stats(views: Iterable[JobView], workers: Iterable[WorkerInfo]) -> list[StatsJson]:
    """Return what these jobs did, a row for each variant and worker, in that order."""
    chips = {worker.id: worker.chip for worker in workers}
    groups: dict[tuple[str, str, str], list[JobView]] = defaultdict(list)
    for view in views:
        worker = view.snapshot.worker or ""
        groups[view.job.variant, view.snapshot.worker_name or "", chips.get(worker, "")].append(view)
    return [_stats(*key, group) for key, group in sorted(groups.items())]


def count_by_status(views: Iterable[JobView]) -> dict[str, int]:
    """Return how many of these jobs have each status that any has, in the order of a job's life."""
    counts = Counter(view.status for view in views)
    return {status.value: counts[status] for status in Status if counts[status]}


def _stats(variant: str, worker: str, chip: str, views: Sequence[JobView]) -> StatsJson:
    done = [view for view in views if view.status is Status.DONE]
    took = [view.snapshot.took for view in done if view.snapshot.took is not None]
    steps = [view.snapshot.step_seconds for view in done if view.snapshot.step_seconds]
    counts = Counter(view.status for view in views)
    return {
        "variant": variant,
        "worker": worker,
        "chip": chip,
        "queued": counts[Status.QUEUED],
        "running": counts[Status.RUNNING],
        "done": counts[Status.DONE],
        "failed": counts[Status.FAILED],
        "cancelled": counts[Status.CANCELLED],
        "attempts": sum(view.snapshot.attempt for view in views),
        "median_seconds": median(took) if took else None,
        "median_step_seconds": median(steps) if steps else None,
        "video_seconds": sum((view.job.request.num_frames or 0) / (view.job.request.frame_rate or 1) for view in done),
    }
