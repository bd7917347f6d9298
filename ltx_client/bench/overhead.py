"""Measure the farm's own overhead: the time from a submit to the first event, jobs a second, and Redis's work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ltx_client.bench.private_farm import PrivateFarm
from ltx_client.errors import FarmError
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.state import Snapshot
from ltx_models.request import GenerationRequest

__all__ = ["Drain", "Idle", "RedisWork", "measure_drain", "measure_idle", "measure_latencies", "percentile"]

EVENT_TIMEOUT = 30.0
IDLE_SECONDS = 3.0
WARM_UP_JOBS = 5


@dataclass(frozen=True)
class RedisWork:
    """What the server did: commands by name, including those inside scripts, and bytes received and sent."""

    commands: dict[str, float]
    bytes_in: float
    bytes_out: float

    def per(self, jobs: int) -> RedisWork:
        """Return the work for each of so many jobs."""
        commands = {name: count / jobs for name, count in self.commands.items()}
        return RedisWork(commands, self.bytes_in / jobs, self.bytes_out / jobs)

    def without(self, idle: RedisWork, times: float) -> RedisWork:
        """Return the work without `times` times what an idle farm causes."""
        commands = {name: max(0.0, count - idle.commands.get(name, 0) * times) for name, count in self.commands.items()}
        return RedisWork(
            {name: count for name, count in commands.items() if count},
            self.bytes_in - idle.bytes_in * times,
            self.bytes_out - idle.bytes_out * times,
        )


@dataclass(frozen=True)
class Drain:
    """How a full queue was rendered.

    Attributes:
        jobs: How many jobs it had.
        workers: How many workers rendered it.
        jobs_per_second: The rate.
        submit: Redis's work for the submit of one job.
        render: The rest of Redis's work for one job.
    """

    jobs: int
    workers: int
    jobs_per_second: float
    submit: RedisWork
    render: RedisWork


@dataclass(frozen=True)
class Idle:
    """How an engine with a full queue spent its time.

    Attributes:
        renders: How many renders were measured.
        waiting: The share of the time in which it waited for the next render.
        seconds: From the beginning of one render to that of the next.
        writing: Seconds from a render's last frame to its complete MP4, for which the next render does not wait.
    """

    renders: int
    waiting: float
    seconds: float
    writing: float


def measure_latencies(farm: PrivateFarm, count: int, steps: int) -> list[float]:
    """Return the seconds from each submit to the arrival of the job's first event at a watcher, with an idle worker."""
    latencies = []
    with farm.client.pubsub(ignore_subscribe_messages=False) as watcher:
        for index in range(WARM_UP_JOBS + count):
            job = _job(steps)
            watcher.subscribe(farm.names.events(job.id))
            watcher.get_message(timeout=EVENT_TIMEOUT)
            began = time.perf_counter()
            farm.farm.send(job)
            if watcher.get_message(timeout=EVENT_TIMEOUT) is None:
                raise FarmError(f"no worker took job {job.id} within {EVENT_TIMEOUT:g} s")
            if index >= WARM_UP_JOBS:
                latencies.append(time.perf_counter() - began)
            farm.await_ended([job.id])
            watcher.unsubscribe()
            while watcher.subscribed:
                watcher.get_message(timeout=EVENT_TIMEOUT)
    return latencies


def measure_drain(farm: PrivateFarm, jobs: int, workers: int, steps: int) -> Drain:
    """Submit the jobs, then start the workers, and measure until all have ended."""
    farm.client.flushdb()
    waiting = [_job(steps) for _ in range(jobs)]
    begin = _work(farm)
    for job in waiting:
        farm.farm.send(job)
    submit = _work(farm, begin)
    begin, began = _work(farm), time.monotonic()
    with farm.workers(workers):
        farm.await_ended([job.id for job in waiting])
        busy, seconds = _work(farm, begin), time.monotonic() - began
        begin = _work(farm)
        time.sleep(IDLE_SECONDS)
        idle = _work(farm, begin)
    ends = sorted(_ends(farm, waiting))
    rate = (jobs - 1) / (ends[-1] - ends[0])
    return Drain(jobs, workers, rate, submit.per(jobs), busy.without(idle, seconds / IDLE_SECONDS).per(jobs))


def measure_idle(farm: PrivateFarm, jobs: int) -> Idle:
    """Render a full queue with the bundled model, and return what its engine noted of each render but the first."""
    waiting = [
        prepare(GenerationRequest(prompt="a red ball", seed=seed), checkpoint_every=0).job for seed in range(jobs)
    ]
    for job in waiting:
        farm.farm.send(job)
    with farm.workers(1, render=True):
        farm.await_ended([job.id for job in waiting])
    sidecars = [sidecar for sidecar in (farm.sidecar(job.id) for job in waiting) if sidecar["waited"] is not None]
    writing = sum(sidecar["seconds"]["encode"] for sidecar in sidecars)
    waited = sum(sidecar["waited"] for sidecar in sidecars)
    total = waited + sum(sum(sidecar["seconds"].values()) for sidecar in sidecars) - writing
    return Idle(len(sidecars), waited / total, total / len(sidecars), writing / len(sidecars))


def percentile(values: list[float], percent: int) -> float:
    """Return the value that so many percent of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _job(steps: int) -> Job:
    return prepare(GenerationRequest(prompt="nothing", num_steps=steps, seed=1), checkpoint_every=0).job


def _ends(farm: PrivateFarm, jobs: list[Job]) -> Iterable[float]:
    for job in jobs:
        snapshot: Any = farm.client.hget(farm.names.state(job.id), "snapshot")
        ended_at = Snapshot.model_validate_json(snapshot).ended_at
        assert ended_at is not None
        yield ended_at


def _work(farm: PrivateFarm, since: RedisWork | None = None) -> RedisWork:
    """Return what the server has done so far, or since then."""
    stats: Any = farm.client.info("commandstats")
    totals: Any = farm.client.info("stats")
    work = RedisWork(
        {name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items()},
        totals["total_net_input_bytes"],
        totals["total_net_output_bytes"],
    )
    return work.without(since, 1) if since else work
