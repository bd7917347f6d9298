"""`AsyncFarm` on a real server: many watchers in one loop, without threads; what a cancelled one leaves; outages."""

import asyncio
import contextlib
import subprocess
import threading
import time

import pytest
import redis
from pydantic import SecretStr

from ltx_client import AsyncFarm, Farm
from ltx_client.errors import BrokerUnreachable, FarmError
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.local.server import find_server
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.shared.settings import FarmSettings
from ltx_models.request import GenerationRequest
from ltx_worker.ledger.ledger import Ledger
from tests.integration.conftest import PATIENCE, PROMPT, wait_until

WATCHERS = 50
STEPS = 3
NAMES = Names()
REQUEST = GenerationRequest(prompt=PROMPT, width=64, height=64, num_frames=9, num_steps=STEPS, seed=1)


@pytest.fixture
def settings(farm_env):
    return FarmSettings(broker_url=farm_env.server.address.url, storage_url=str(farm_env.storage))


@pytest.fixture
def submit(farm_env):
    """Writes the records of so many jobs, as if they were submitted. Returns their ids."""

    def submit(count):
        jobs = [prepare(REQUEST).job for _ in range(count)]
        with farm_env.server.address.connect() as client:
            for job in jobs:
                ClientLedger(client, NAMES).submit(job)
        return [job.id for job in jobs]

    return submit


def begin(client, job_id):
    """As the worker of a job: it has begun, and a step is done."""
    attempt = Ledger(client, NAMES).claim(job_id, "w", "mac")
    Ledger(client, NAMES).emit(attempt, events.Stepped(step=1, steps=STEPS, seconds=1))
    return attempt


def end(client, attempt):
    """As the worker of a job: the other steps are done, and it ends."""
    ledger = Ledger(client, NAMES)
    for step in range(2, STEPS + 1):
        ledger.emit(attempt, events.Stepped(step=step, steps=STEPS, seconds=1))
    ledger.commit(attempt, events.Done(result=Result(video="a", sidecar="b", size=1, sha256="0")))


class Watcher:
    """A task that watches a job. seen: the numbers of its events."""

    def __init__(self, farm, job_id):
        self.seen = []
        self.looked = asyncio.Event()
        self.task = asyncio.create_task(self._watch(farm, job_id))

    async def _watch(self, farm, job_id):
        async for update in farm.watch(job_id):
            if update.event is not None:
                self.seen.append(update.snapshot.seq)
            self.looked.set()
        return update.view.status


async def until(condition, what):
    """Waits without blocking the loop."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


def test_many_watchers_need_no_thread_and_see_every_event_once(farm_env, settings, submit):
    *ids, followed_by_many = submit(WATCHERS // 2 + 1)
    ids += [followed_by_many] * (WATCHERS - len(ids))

    async def watch(client):
        async with AsyncFarm(settings) as farm:
            threads = threading.active_count()
            attempts = [begin(client, job_id) for job_id in dict.fromkeys(ids)]
            watchers = [Watcher(farm, job_id) for job_id in ids]
            await until(lambda: all(one.seen for one in watchers), "all watchers having seen something")
            assert threading.active_count() == threads
            for attempt in attempts:
                end(client, attempt)
                await asyncio.sleep(0)
            ended = await asyncio.wait_for(asyncio.gather(*(one.task for one in watchers)), PATIENCE)
            assert threading.active_count() == threads
            return ended, [one.seen for one in watchers]

    with farm_env.server.address.connect() as client:
        ended, seen = asyncio.run(watch(client))
    assert ended == [Status.DONE] * WATCHERS
    assert seen == [list(range(1, STEPS + 3))] * WATCHERS


def test_a_watcher_that_is_cancelled_closes_its_connection_and_no_other(farm_env, settings, submit):
    ids = submit(2)

    def waiting(client):
        return {one["id"] for one in client.client_list() if one["cmd"] == "xread"}

    async def watch(client):
        async with AsyncFarm(settings) as farm:
            first, second = (Watcher(farm, job_id) for job_id in ids)
            await asyncio.wait_for(asyncio.gather(first.looked.wait(), second.looked.wait()), PATIENCE)
            await until(lambda: len(waiting(client)) == 2, "both watchers waiting")
            there = {one["id"] for one in client.client_list()}
            first.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first.task
            await until(lambda: len(there - {one["id"] for one in client.client_list()}) == 1, "one being closed")
            end(client, begin(client, ids[1]))
            assert await asyncio.wait_for(second.task, PATIENCE) == Status.DONE
            return there

    with farm_env.server.address.connect() as client:
        there = asyncio.run(watch(client))
        assert len(there) >= 3
        wait_until(
            lambda: len({one["id"] for one in client.client_list()} & there) == 1, what="the others being closed"
        )


def test_a_closed_farm_ends_its_watchers(farm_env, settings, submit):
    (job_id,) = submit(1)

    async def watch():
        async with AsyncFarm(settings) as farm:
            watcher = Watcher(farm, job_id)
            await asyncio.wait_for(watcher.looked.wait(), PATIENCE)
        with pytest.raises(FarmError, match="this farm was closed"):
            await asyncio.wait_for(watcher.task, PATIENCE)

    asyncio.run(watch())


def test_watchers_ride_out_a_brokers_restart_as_those_of_a_farm_do(farm_env, settings, submit):
    (job_id,) = submit(1)

    async def watch():
        async with AsyncFarm(settings) as farm:
            with farm_env.server.address.connect() as client:
                attempt = begin(client, job_id)
            watchers = [Watcher(farm, job_id) for _ in range(3)]
            blocking = asyncio.create_task(asyncio.to_thread(_watch_blocking, settings, job_id))
            await until(lambda: all(one.seen == [1, 2] for one in watchers), "the watchers having seen two events")
            await asyncio.to_thread(farm_env.server.stop)
            with pytest.raises(BrokerUnreachable):
                await farm.jobs()
            await asyncio.sleep(1.5)  # in which every watcher meets the outage
            await asyncio.to_thread(farm_env.restart_server)
            with farm_env.server.address.connect() as client:
                end(client, attempt)
            ended = await asyncio.wait_for(asyncio.gather(*(one.task for one in watchers)), PATIENCE)
            return ended, [one.seen for one in watchers], await asyncio.wait_for(blocking, PATIENCE)

    ended, seen, blocking = asyncio.run(watch())
    assert ended == [Status.DONE] * 3
    assert seen == [list(range(1, STEPS + 3))] * 3 == [blocking] * 3


def _watch_blocking(settings, job_id):
    with Farm(settings) as farm:
        return [update.snapshot.seq for update in farm.watch(job_id) if update.event is not None]


def test_a_broker_that_stays_away_is_told_of(farm_env, settings, submit, monkeypatch):
    monkeypatch.setattr("ltx_client.farm.watching.PATIENCE", 0.1)
    (job_id,) = submit(1)

    async def watch():
        async with AsyncFarm(settings) as farm:
            watcher = Watcher(farm, job_id)
            await asyncio.wait_for(watcher.looked.wait(), PATIENCE)
            await asyncio.to_thread(farm_env.server.stop)
            return await asyncio.wait_for(watcher.task, PATIENCE)

    with pytest.raises(BrokerUnreachable, match="cannot reach the broker at"):
        asyncio.run(watch())


def test_over_a_unix_socket(farm_env, tmp_path):
    place = tmp_path / "s"
    log = (tmp_path / "socket.log").open("wb")
    with log:
        server = subprocess.Popen(
            [find_server(), "--port", "0", "--unixsocket", str(place), "--save", ""],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    async def names_of_jobs():
        async with await AsyncFarm.connect(FarmSettings(broker_url=SecretStr(f"unix://{place}"))) as farm:
            await farm.send(job)
            return [view.job.id for view in await farm.jobs()]

    job = prepare(REQUEST).job
    try:
        wait_until(place.exists, what="the socket being there")
        assert asyncio.run(names_of_jobs()) == [job.id]
    finally:
        server.kill()
        server.wait()


def test_a_broker_that_is_not_there_or_refuses_is_told_of_as_by_a_farm(farm_env, settings):
    wrong = settings.broker_url.get_secret_value().replace("redis://:", "redis://:not-")
    farm_env.server.address.connect().close()

    async def connect(url):
        async with AsyncFarm(FarmSettings(broker_url=SecretStr(url))):
            pass

    for url in (wrong, "redis://127.0.0.1:1/0"):
        with pytest.raises(FarmError) as blocking:
            Farm(FarmSettings(broker_url=SecretStr(url)))
        with pytest.raises(type(blocking.value)) as awaited:
            asyncio.run(connect(url))
        assert str(awaited.value) == str(blocking.value)


def test_a_farm_can_be_used_by_many_tasks_at_once(farm_env, settings, submit):
    ids = submit(5)

    async def ask():
        async with AsyncFarm(settings) as farm:
            asked = [farm.view(job_id) for job_id in ids] + [farm.jobs(), farm.workers(), farm.places(), farm.now()]
            *views, jobs, workers, places, now = await asyncio.gather(*asked)
            assert {view.job.id for view in views} == {view.job.id for view in jobs} == set(ids) == set(places)
            assert (workers, abs(now - time.time()) < 3600) == ([], True)

    asyncio.run(ask())
    with contextlib.suppress(redis.RedisError), farm_env.server.address.connect() as client:
        assert client.ping()
