"""Forecast when a job begins and how long it takes, from finished jobs of its variant on the same kind of chip.

A step is assumed to take time in proportion to the video's latent tokens, and so is everything else (loading, text,
decoding). That is coarse: attention grows faster. But most jobs of a farm resemble the ones before them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ltx_client.farm.jobs.views import JobView
from ltx_client.protocol.fair_turns import GIVEN_BACK, turn_of
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import WorkerInfo
from ltx_models.errors import UnknownVariant
from ltx_models.families.stages import count_steps
from ltx_models.families.variants import find_variant
from ltx_models.memory import latent_size, limits_of

__all__ = ["Pace", "Paces", "Place", "Turns", "measure", "places"]

SAMPLES = 50
"""How many of the newest jobs of a variant and chip are measured."""


@dataclass(frozen=True)
class Pace:
    """How fast a variant renders on a chip, for each latent token.

    Attributes:
        step: Seconds of one step.
        rest: Seconds of everything else.
        jobs: How many jobs were measured.
    """

    step: float
    rest: float
    jobs: int

    def seconds(self, job: Job, steps_done: int = 0) -> float:
        """Return the seconds that a render of this job takes after `steps_done` steps."""
        tokens = latent_size(job.request, limits_of(job.variant)).tokens
        return tokens * (self.step * max(0, _steps(job) - steps_done) + self.rest)


def _steps(job: Job) -> int:
    """Return the steps of a job's render, in all stages that count steps; as asked for where the variant is newer."""
    try:
        return count_steps(find_variant(job.variant).stages, job.request)
    except UnknownVariant:
        return job.request.num_steps or 0


Paces = dict[tuple[str, str | None], Pace]
"""Paces by variant and chip; None stands for all chips together."""
Turns = Mapping[str, Sequence[str]]
"""Turns by variant, the next first, as `ltx_client.protocol.fair_turns` writes them."""


@dataclass(frozen=True)
class Place:
    """The place of a waiting job in the queue.

    Attributes:
        ahead: How many jobs the same workers take before it.
        starts_in: Seconds; None if nothing similar was measured or no worker serves it.
        takes: Seconds; None if nothing similar was measured.
    """

    ahead: int
    starts_in: float | None
    takes: float | None


def measure(views: Iterable[JobView], workers: Sequence[WorkerInfo]) -> Paces:
    """Return the paces of finished jobs; `views` has the newest first."""
    chips = {worker.id: worker.chip for worker in workers}
    samples: dict[tuple[str, str | None], list[tuple[float, float]]] = defaultdict(list)
    for view in views:
        state, request = view.snapshot, view.job.request
        if state.status is not Status.DONE or not (state.step_seconds and state.steps):
            continue
        if state.attempt > 1 or state.took is None:
            continue  # what it took includes what an earlier attempt did
        tokens = latent_size(request, limits_of(view.job.variant)).tokens
        rest = max(0.0, state.took - state.steps * state.step_seconds)
        for chip in {None, chips.get(state.worker or "")}:
            samples[view.job.variant, chip].append((state.step_seconds / tokens, rest / tokens))
    return {
        key: Pace(median(step for step, _ in newest), median(rest for _, rest in newest), len(newest))
        for key, newest in ((key, taken[:SAMPLES]) for key, taken in samples.items())
    }


def places(
    views: Sequence[JobView], workers: Sequence[WorkerInfo], paces: Paces, now: float, turns: Turns | None = None
) -> dict[str, Place]:
    """Return the place of each job that waits for its turn, but not of those that are paused or depend on other jobs.

    Args:
        views: All jobs that have not ended.
        workers: The live workers.
        paces: What `measure` returned.
        now: The time by the broker's clock.
        turns: The current turns of each variant; None if everybody's turns are assumed to begin now.
    """
    waiting = [view for view in views if _waits(view)]
    free = {worker.id: _free_in(worker, views, paces, now) for worker in workers}
    ahead: dict[str, int] = defaultdict(int)
    found = {}
    able = {view.job.id: [worker for worker in workers if _may_have(worker, view)] for view in waiting}
    served = [view for view in waiting if able[view.job.id]]
    unserved = [view for view in waiting if not able[view.job.id]]
    for view in [*_in_turn(served, turns or {}), *_in_turn(unserved, turns or {})]:
        starts, takes = None, None
        if able[view.job.id]:
            worker = min(able[view.job.id], key=lambda worker: free[worker.id])
            pace = paces.get((view.job.variant, worker.chip)) or paces.get((view.job.variant, None))
            if pace is not None:
                starts, takes = free[worker.id], pace.seconds(view.job, view.snapshot.step)
                free[worker.id] += takes
        found[view.job.id] = Place(ahead[view.job.variant], starts, takes)
        ahead[view.job.variant] += 1
    return found


def _waits(view: JobView) -> bool:
    follows = view.relations.waits and not view.snapshot.attempt
    return view.status is Status.QUEUED and not view.paused and not follows


def _may_have(worker: WorkerInfo, view: JobView) -> bool:
    return worker.serves(view.job) and not view.relations.excludes(worker.id, worker.name)


def _free_in(worker: WorkerInfo, views: Sequence[JobView], paces: Paces, now: float) -> float:
    """Return the seconds until a worker takes its next job."""
    view = next((view for view in views if view.job.id == worker.job), None)
    pace = paces.get((worker.variant, worker.chip)) or paces.get((worker.variant, None))
    if view is None or pace is None:
        return 0.0
    state = view.snapshot
    left = pace.seconds(view.job, state.step)
    return max(0.0, left - (now - state.updated_at if state.updated_at else 0.0))


def _in_turn(waiting: Sequence[JobView], turns: Turns) -> list[JobView]:
    """Return the jobs in the order in which the farm serves them.

    Requeued jobs come first. The others are ordered by priority; within one, everybody's oldest job precedes
    everybody's second, and so on, in the order of turns.
    """
    lines: dict[tuple[str, str], deque[JobView]] = defaultdict(deque)
    for view in sorted(waiting, key=lambda view: view.submitted_at):
        turn = turn_of(view.job, GIVEN_BACK if view.snapshot.attempt else None)
        lines[view.job.variant, turn].append(view)
    places = {(variant, turn): place for variant, known in turns.items() for place, turn in enumerate(known)}
    rounds: dict[tuple[str, str], deque[deque[JobView]]] = defaultdict(deque)
    for (variant, turn), line in sorted(lines.items(), key=lambda pair: places.get(pair[0], len(places))):
        rounds[turn.partition(":")[0], variant].append(line)  # those that are not known yet come last
    order = []
    for _, people in sorted(rounds.items()):
        while people:
            line = people.popleft()
            order.append(line.popleft())
            if line:
                people.append(line)
    return order
