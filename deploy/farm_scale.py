"""Measure what a farm of 1,000 workers with 100,000 queued jobs costs its broker, and what saturates first.

The server is real. The client's own script submits the jobs, the worker's own reaper examines them, and thin workers
take them: connections that send what a worker sends, by the ledger's own scripts, without Celery and an engine. The
cost of each part is the server's processor time (INFO cpu), which depends little on the machine's other work. Run in
a checkout:  uv run python deploy/farm_scale.py --plot deploy/farm-scale.png
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import os
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import redis

from ltx_client.bench.plot import plot_path, save
from ltx_client.bench.private_farm import PrivateFarm
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol import events
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Snapshot
from ltx_client.shared.broker.client import Purpose, make_async_client
from ltx_client.shared.celery.celery_settings import queue_keys, unacked_keys
from ltx_client.shared.live_workers import live_workers
from ltx_models.request import GenerationRequest
from ltx_worker.ledger.embeddings_cache import EmbeddingsLimit
from ltx_worker.ledger.ledger import Ledger, Turn
from ltx_worker.ledger.scripts import NEXT, SCRIPTS
from ltx_worker.queue.reaper import Reaper

PEOPLE = 200
RENDER_SECONDS = 10.0
STEPS = 8
RENEW_EVERY = 10.0
HEARTBEAT_EVERY = REAP_EVERY = WATCH_EVERY = 5.0
SIZES = (0, 1_000, 10_000, 100_000)
VARIANT = "pocket"
QUEUES = ("pocket.1", "pocket.4", "pocket.8", "pocket.12", "pocket.16", "pocket.25")
"""The queues that a worker of 32 GB serves."""


def server_seconds(client: redis.Redis) -> float:
    """Return the processor time that the server's thread has used."""
    cpu: Any = client.info("cpu")
    return float(cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"])


@dataclass
class Cost:
    """A cost: seconds of processor time, the server's and the caller's, and bytes sent between them."""

    server: float
    caller: float
    size: float


@contextlib.contextmanager
def measured(client: redis.Redis, costs: dict[str, Cost], name: str, count: int = 1) -> Iterator[None]:
    """Record under `name` the cost of each of the `count` operations that are done inside."""
    sent: Any = client.info("stats")
    before, began = server_seconds(client), time.thread_time()
    yield
    caller = time.thread_time() - began
    seconds = server_seconds(client) - before
    now: Any = client.info("stats")
    size = sum(now[way] - sent[way] for way in ("total_net_output_bytes", "total_net_input_bytes"))
    costs[name] = Cost(seconds / count, caller / count, size / count)


def make_job(submitter: str, template: Job) -> Job:
    """Return a new job like the template."""
    fresh = f"{secrets.token_hex(4)}-{secrets.token_hex(2)}-7000-8000-{secrets.token_hex(6)}"
    return template.model_copy(update={"id": fresh, "submitter": submitter})


class Messages:
    """Makes Celery's messages as kombu puts them into a queue, by copies of one."""

    def __init__(self, farm: PrivateFarm, template: Job) -> None:
        farm.farm.send(template)
        keys = queue_keys(farm.names, template.queue)
        key = keys[template.priority]
        (message,) = farm.client.lrange(key, 0, -1)  # type: ignore[misc]
        self._text = message.decode()
        self._id = template.id
        self._body = json.loads(self._text)["body"]
        farm.client.delete(key)

    def of(self, job: Job) -> str:
        """Return the message that makes a worker look for a job."""
        body = base64.b64encode(base64.b64decode(self._body).replace(self._id.encode(), job.id.encode())).decode()
        return self._text.replace(self._body, body).replace(self._id, job.id)


def submit(farm: PrivateFarm, jobs: list[Job], messages: Messages) -> None:
    """Submit jobs as clients do, many at once."""
    names, ledger = farm.names, ClientLedger(farm.client, farm.names)
    for start in range(0, len(jobs), 500):
        with farm.client.pipeline(transaction=False) as pipeline:
            for job in jobs[start : start + 500]:
                ledger.submit(job)
                pipeline.lpush(queue_keys(names, job.queue)[job.priority], messages.of(job))
            pipeline.execute()


def reaper_of(farm: PrivateFarm) -> Reaper:
    """Return a worker's reaper."""
    ledger = Ledger(farm.client, farm.names)
    limit = EmbeddingsLimit(farm.client, farm.names, 3600, 10**8)

    return Reaper(farm.client, farm.names, ledger, _send_nothing, limit, holder="r", every=REAP_EVERY, lease=60)


def _send_nothing(job: Job, *_: object, **__: object) -> None:
    raise AssertionError(f"no message is missing here, but the reaper sent one for {job.id}")


@dataclass
class ThinWorkers:
    """Connections that send what workers send; a render is a wait of `render_seconds` with `steps` events."""

    farm: PrivateFarm
    count: int
    render_seconds: float
    steps: int
    only_beat: bool = False
    done: int = 0

    async def run(self, seconds: float) -> None:
        """Work for `seconds`."""
        client = make_async_client(self.farm.broker, Purpose.LOAD, max_connections=3 * self.count + 10)
        self._ledger = Ledger(self.farm.client, self.farm.names)
        self._stop = time.monotonic() + seconds
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self.count):
                    group.create_task(self._beat(client, number))
                    if not self.only_beat:
                        group.create_task(self._work(client, number))
        finally:
            await client.aclose()

    async def _beat(self, client: Any, number: int) -> None:
        """Send the heartbeat, the attempt at the reaper's lock, and the watchdog's check."""
        names = self.farm.names
        key, fields = names.worker(f"{number:032x}"), {str(index): "x" * 20 for index in range(15)}
        watched = [key for queue in _all_queues() for key in queue_keys(names, queue)]
        await asyncio.sleep(HEARTBEAT_EVERY * secrets.randbelow(1000) / 1000)
        while time.monotonic() < self._stop:
            async with client.pipeline() as pipeline:
                pipeline.hset(key, mapping=fields)
                pipeline.pexpire(key, 15_000)
                await pipeline.execute()
            await client.set(names.reaper(), "r", nx=True, px=12_500)
            await client.get(names.reaper())
            await client.exists(*watched)
            await asyncio.sleep(HEARTBEAT_EVERY)

    async def _work(self, client: Any, number: int) -> None:
        names = self.farm.names
        unacked, index = unacked_keys(names)
        keys = [
            key for turn in zip(*(queue_keys(names, queue) for queue in _all_queues()), strict=True) for key in turn
        ]
        scripts = {name: client.register_script(script.text) for name, script in SCRIPTS.items()}
        scripts["next"] = client.register_script(NEXT.text)
        await asyncio.sleep(self.render_seconds * secrets.randbelow(1000) / 1000)
        while time.monotonic() < self._stop:
            found = await client.brpop(keys, timeout=1)
            if found is None:
                continue
            _, message = found
            tag = secrets.token_hex(16)
            async with client.pipeline() as pipeline:
                pipeline.zadd(index, {tag: time.time()})
                pipeline.hset(unacked, tag, message)
                await pipeline.execute()
            job_id = json.loads(message)["headers"]["id"]
            calls = _Recorder(self.farm.names)
            await calls.render(scripts, job_id, number, self.render_seconds, self.steps)
            async with client.pipeline() as pipeline:
                pipeline.zrem(index, tag)
                pipeline.hdel(unacked, tag)
                await pipeline.execute()
            self.done += 1


class _Recorder:
    """Records the ledger's calls for one job, and sends them by a connection of its own."""

    def __init__(self, names: Names) -> None:
        self._ledger = Ledger(_Nobody(), names)  # type: ignore[arg-type]
        self._calls: list[tuple[str, list[str], list[Any]]] = []
        self._ledger._run = self._record  # type: ignore[method-assign]
        self._ledger._next = self._record_next  # type: ignore[assignment]
        self._ledger.read_with_spec = lambda *_: (Snapshot(), b"")  # type: ignore[method-assign]
        self._names = names

    def _record_next(self, **named: Any) -> list[bytes]:
        self._next_keys, self._next_args = NEXT.arrange(named)
        return []

    def _record(self, script: str, job_id: str, named: dict[str, Any]) -> str:
        self._calls.append((script, *SCRIPTS[script].arrange(self._ledger._with_keys(script, job_id, named))))
        return {"claim": "claimed", "commit": "committed"}.get(script, "continue")

    async def render(self, scripts: dict[str, Any], job_id: str, number: int, seconds: float, steps: int) -> None:
        who = f"{number:032x}", f"thin {number}", VARIANT
        found: Any = self._ledger.next(*who, math.inf, cancelled=job_id)
        found = await scripts["next"](keys=self._next_keys, args=self._next_args)
        if not found:
            return
        turn = Turn(found[0].decode(), found[1].decode(), found[2].decode(), *found[3:])
        job_id = turn.job_id
        attempt: Any = self._ledger.claim(job_id, *who, turn=turn)
        await self._send(scripts)
        self._ledger.emit(attempt, events.TextEncoded())
        await self._send(scripts)
        pause, since = seconds / steps, 0.0
        for step in range(1, steps + 1):
            await asyncio.sleep(pause)
            since += pause
            if since >= RENEW_EVERY:
                since = 0.0
                self._ledger.renew(attempt)
            self._ledger.emit(attempt, events.Stepped(step=step, steps=steps, seconds=pause))
            await self._send(scripts)
        self._ledger.emit(attempt, events.Decoded(frames=97))
        self._ledger.emit(attempt, events.Uploading(size=10**6))
        result = events.Result(video=f"{attempt.name}.mp4", sidecar=f"{attempt.name}.json", size=10**6, sha256="0" * 64)
        self._ledger.commit(attempt, events.Done(result=result))
        await self._send(scripts)

    async def _send(self, scripts: dict[str, Any]) -> None:
        for script, keys, args in self._calls:
            answer = await scripts[script](keys=keys, args=args)
            assert answer in (b"claimed", b"continue", b"committed"), (script, answer)
        self._calls.clear()


class _Nobody:
    """Stands in for a client, for a ledger whose calls are recorded."""

    def register_script(self, *_: object) -> Any:
        return None


def _all_queues() -> list[str]:
    return list(QUEUES)


def measure(farm: PrivateFarm, workers: int, sizes: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Return the costs at each size of the queue, and those of the workers at the largest."""
    template = prepare(GenerationRequest(prompt="a red ball " * 20, seed=1), checkpoint_every=0).job
    messages = Messages(farm, template)
    farm.client.flushall()
    by_size: dict[int, dict[str, Cost]] = {}
    queued = 0
    for size in sizes:
        jobs = [make_job(f"person{index % PEOPLE}@here", template) for index in range(queued, size)]
        costs: dict[str, Cost] = {}
        if jobs:
            with measured(farm.client, costs, "submit", len(jobs)):
                submit(farm, jobs, messages)
        queued = size
        reaper = reaper_of(farm)
        with measured(farm.client, costs, "first look"):
            reaper.run_once()
        with measured(farm.client, costs, "look"):
            reaper.run_once()
        with measured(farm.client, costs, "list workers"):
            live_workers(farm.client, farm.names)
        by_size[size] = costs
        click.echo(f"{size} queued: " + ", ".join(_line(name, cost) for name, cost in costs.items()), err=True)
    busy = run_workers(farm, ThinWorkers(farm, workers, RENDER_SECONDS, STEPS), seconds)
    farm.client.flushall()
    idle = run_workers(farm, ThinWorkers(farm, workers, RENDER_SECONDS, STEPS), seconds / 2)
    beats = run_workers(farm, ThinWorkers(farm, workers, RENDER_SECONDS, STEPS, only_beat=True), seconds / 2)
    return {
        "costs": {size: {n: vars(c) for n, c in costs.items()} for size, costs in by_size.items()},
        "workers": workers,
        "render_seconds": RENDER_SECONDS,
        "steps": STEPS,
        "busy": busy,
        "idle": idle,
        "beats": beats,
        "server_seconds_per_job": (busy["server_share"] - beats["server_share"]) / busy["jobs_per_second"],
    }


def run_workers(farm: PrivateFarm, thin: ThinWorkers, seconds: float) -> dict[str, float]:
    """Return the share of the time that the server's thread works for the workers, and their jobs a second."""
    before, began = server_seconds(farm.client), time.perf_counter()
    asyncio.run(thin.run(seconds))
    took = time.perf_counter() - began
    return {"jobs_per_second": thin.done / took, "server_share": (server_seconds(farm.client) - before) / took}


def _line(name: str, cost: Cost) -> str:
    return f"{name} {cost.caller * 1e3:.2f} ms (server {cost.server * 1e3:.2f} ms, {cost.size / 1e3:.0f} kB)"


@click.command()
@click.option("--workers", default=1000, show_default=True)
@click.option("--jobs", default=100_000, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Measure the workers for this long.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Draw the output of an earlier run.")
@click.option("--plot", type=click.Path(), help="Write the plot into this PNG.")
def main(workers: int, jobs: int, seconds: float, source: Path | None, plot: str | None) -> None:
    """Measure, and print the result as JSON."""
    path = None if plot is None else plot_path(plot, as_json=True)
    if source is None:
        found = simulate(workers, jobs, seconds)
        json.dump(found, sys.stdout, indent=2)
    else:
        found = json.loads(source.read_text())
    if path is not None:
        draw(found, path)


def simulate(workers: int, jobs: int, seconds: float) -> dict[str, Any]:
    """Measure on a server of its own that flushes its log to the disk once a second."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    sizes = (*(size for size in SIZES if size < jobs), jobs)
    with tempfile.TemporaryDirectory() as folder, PrivateFarm.start(Path(folder)) as farm:
        farm.client.config_set("appendfsync", "everysec")
        found = measure(farm, workers, sizes, seconds)
    return found | {"load_average": os.getloadavg()[0]}


def draw(found: dict[str, Any], path: Path) -> None:
    """Plot the cost of a reaper's round by the length of the queue, and the server's load by the rate of jobs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = FigureCanvasAgg(figure).figure.subplots(1, 2)
    looks = {int(size): costs["look"] for size, costs in found["costs"].items() if int(size)}
    for who, label in (("caller", "the worker that holds the lock"), ("server", "the server")):
        left.loglog(list(looks), [cost[who] for cost in looks.values()], marker="o", label=label)
    left.axhline(REAP_EVERY, color="grey", linestyle="--", label="the time between two rounds")
    left.set(xlabel="jobs that wait", ylabel="processor time, s", title="One round of the reaper")
    look = looks[max(looks)]["server"] / REAP_EVERY
    always = found["beats"]["server_share"] + look
    each = found["server_seconds_per_job"]
    full = (1 - always) / each
    right.plot([0, full], [100 * always, 100], label=f"{found['workers']:,} workers, {max(looks):,} jobs that wait")
    right.plot(found["busy"]["jobs_per_second"], 100 * (found["busy"]["server_share"] + look), "o", label="measured")
    right.axhline(100, color="grey", linestyle="--")
    right.set(xlabel="jobs a second", ylabel="% of one core", title="The server", ylim=(0, 110), xlim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    save(figure, path)


if __name__ == "__main__":
    main()
