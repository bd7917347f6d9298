"""Following the farm's changes on a real server: what is told, restarts, lost connections, and many consumers."""

import asyncio
import contextlib
import queue
import signal
import threading
import time

import pytest
import redis

from ltx_client import AsyncFarm, Farm
from ltx_client.errors import BrokerUnreachable, FarmError
from ltx_client.farm.batches import PreparedBatch
from ltx_client.farm.changes import feed, hub
from ltx_client.farm.changes.feed import JobEvent, ReadAgain
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.farm.retention import Old
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.shared.settings import FarmSettings
from ltx_models.request import GenerationRequest
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.machine.health import Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.queue.lapsed_workers import LapsedWorkers
from ltx_worker.queue.open_jobs import OpenJobs
from ltx_worker.settings import WorkerSettings
from tests.integration.conftest import PATIENCE, PROMPT, wait_until

NAMES = Names()
REQUEST = GenerationRequest(prompt=PROMPT, width=64, height=64, num_frames=9, num_steps=3, seed=1)
DONE = events.Done(result=Result(video="a", sidecar="b", size=1, sha256="0"))


@pytest.fixture
def settings(farm_env):
    return FarmSettings(broker_url=farm_env.server.address.url, storage_url=str(farm_env.storage))


@pytest.fixture
def client(farm_env):
    with farm_env.server.address.connect() as client:
        yield client


def new_job(**options):
    return prepare(REQUEST, **options).job


def subscribers(client):
    """Return the connections that follow the channel."""
    return [one["id"] for one in client.client_list() if int(one["sub"]) > 0]


class Blocking:
    """A thread that follows a farm's changes."""

    def __init__(self, settings, **options):
        self.heard, self.error = queue.SimpleQueue(), None
        self.farm = Farm(settings)
        self._thread = threading.Thread(target=self._follow, kwargs=options, daemon=True)
        self._thread.start()

    def _follow(self, **options):
        try:
            for change in self.farm.changes(**options):
                self.heard.put(change)
        except FarmError as error:
            self.error = error

    def next(self):
        return self.heard.get(timeout=PATIENCE)

    def until(self, kind):
        """Return what is heard up to the first of a kind, and that."""
        found = [self.next()]
        while found[-1].type != kind:
            found.append(self.next())
        return found

    def end(self):
        self.farm.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def following(settings):
    """Follows changes by `Farm`, from the first item on."""
    with contextlib.ExitStack() as stack:

        def begin(**options):
            blocking = Blocking(settings, **options)
            stack.callback(blocking.end)
            assert blocking.next() == ReadAgain()
            return blocking

        yield begin


def heartbeat(client, tmp_path, name="mac-3"):
    worker = WorkerSettings(home=tmp_path / name, worker_name=name)
    return Heartbeat(worker, client, "pocket", Health("w", None, None, hand_on=0))


def told(change, *fields):
    return (change.type, *(getattr(change, name) for name in fields))


def test_all_that_changes_of_a_job_is_told_in_order(client, following):
    asking, ledger, one = ClientLedger(client, NAMES), Ledger(client, NAMES), new_job(priority=7)
    changes = following()
    asking.submit(one)
    asking.submit(one)
    asking.set_priority(one.id, 2)
    asking.pause(one.id)
    asking.unpause(one.id)
    attempt = ledger.claim(one.id, "w1", "mac-3")
    ledger.emit(attempt, events.Stepped(step=1, steps=3, seconds=1))
    ledger.release(attempt, "gave back")
    attempt = ledger.claim(one.id, "w1", "mac-3")
    ledger.commit(attempt, DONE)
    ledger.commit(attempt, DONE)
    client.delete(NAMES.job(one.id))  # as it expires a week later
    for _ in range(2):
        OpenJobs(client, NAMES).read()
    two = new_job()
    asking.submit(two)
    asking.cancel(two.id)
    asking.cancel(two.id)
    ledger.claim(two.id, "w1", "mac-3")
    heard = [changes.next() for _ in range(12)]
    assert {change.job for change in heard} == {one.id, two.id}
    assert told(heard[0], "variant", "priority", "submitter", "batch") == (
        "job_submitted",
        one.variant,
        7,
        one.submitter,
        None,
    )
    assert told(heard[1], "priority") == ("job_priority", 2)
    assert [change.type for change in heard[2:4]] == ["job_paused", "job_unpaused"]
    assert [told(change, "status", "seq", "attempt", "worker", "worker_name") for change in heard[4:8]] == [
        ("job_status", "running", 1, 1, "w1", "mac-3"),
        ("job_status", "queued", 3, 1, "", ""),
        ("job_status", "running", 4, 2, "w1", "mac-3"),
        ("job_status", "done", 5, 2, "", ""),
    ]
    assert told(heard[8], "job") == ("job_removed", one.id)
    assert [change.type for change in heard[9:11]] == ["job_submitted", "job_cancel_asked"]
    assert told(heard[11], "status") == ("job_status", "cancelled")


def test_batches_are_told_with_their_jobs_and_their_removal(client, settings, following):
    jobs = [(new_job(), Relations(batch="batch-1", item=item)) for item in (1, 2)]
    batch = PreparedBatch("batch-1", "shots.csv", jobs)
    changes = following()
    with Farm(settings) as farm:
        farm.send_batch(batch)
        farm.send_batch(batch)
        for job, _ in jobs:
            Ledger(client, NAMES).commit(Ledger(client, NAMES).claim(job.id, "w", "mac"), events.Failed(error="no"))
        retried = farm.retry(jobs[0][0].id)
        farm.cancel(retried.id)
        Ledger(client, NAMES).claim(retried.id, "w", "mac")
        old = Old(read_at=farm.now(), jobs={view.job.id: view.submitted_at for view in farm.jobs()})
        client.hset(NAMES.batch("batch-1"), "noted_at", 0)
        list(farm.remove(old, None))
    heard = changes.until("batch_removed")
    submitted = [told(change, "batch") for change in heard if change.type == "job_submitted"]
    assert told(heard[0], "batch", "name") == ("batch_submitted", "batch-1", "shots.csv")
    assert submitted == [("job_submitted", "batch-1")] * 3
    assert {change.job for change in heard if change.type == "job_removed"} == set(old.jobs)
    assert heard[-1].batch == "batch-1"


def test_workers_are_told_when_they_come_change_leave_and_die(client, tmp_path, following):
    changes = following()
    first, second = heartbeat(client, tmp_path), heartbeat(client, tmp_path, "mac-4")
    for _ in range(2):
        first._tell()
        second._tell()
    with first.busy("one"):
        first._tell()
        first._tell()
    first.leave()
    first.leave()
    client.delete(NAMES.worker(second.worker_id))  # as it expires three beats after the last one
    for _ in range(2):
        LapsedWorkers(client, NAMES).drop()
    second._tell()
    heard = [changes.next() for _ in range(6)]
    assert told(heard[0], "worker", "name", "variant", "state") == (
        "worker_came",
        first.worker_id,
        "mac-3",
        "pocket",
        "idle",
    )
    assert told(heard[1], "worker") == ("worker_came", second.worker_id)
    assert told(heard[2], "worker", "state", "job") == ("worker_changed", first.worker_id, "rendering", "one")
    assert told(heard[3], "worker", "died") == ("worker_left", first.worker_id, False)
    assert told(heard[4], "worker", "died") == ("worker_left", second.worker_id, True)
    assert told(heard[5], "worker") == ("worker_came", second.worker_id)


def test_of_many_that_notice_a_dead_worker_one_tells(client, tmp_path, following):
    dead = heartbeat(client, tmp_path)
    dead._tell()
    changes = following()
    client.delete(NAMES.worker(dead.worker_id))
    noticing = [threading.Thread(target=LapsedWorkers(client, NAMES).drop) for _ in range(8)]
    for thread in noticing:
        thread.start()
    for thread in noticing:
        thread.join()
    client.publish(NAMES.changes(), '{"type": "job_paused", "job": "the end"}')
    assert [change.type for change in changes.until("job_paused")] == ["worker_left", "job_paused"]


def test_a_worker_that_is_killed_is_told_of_by_another_and_a_render_by_its_own(farm_env, settings, following):
    """With whole workers: nothing but the channel is read."""
    changes = following()
    quick = {"heartbeat_every": 0.5, "reap_every": 0.5}
    killed = farm_env.start_worker("one", "--no-op", **quick)
    came = changes.until("worker_came")[-1]
    with Farm(settings) as farm:
        job = farm.render(PROMPT, width=64, height=64, num_frames=9, num_steps=2)
    statuses = []
    while not statuses or statuses[-1].status != "done":
        statuses.append(changes.until("job_status")[-1])
    assert [told(change, "job", "status", "worker") for change in statuses] == [
        ("job_status", job.id, "running", came.worker),
        ("job_status", job.id, "done", ""),
    ]
    farm_env.start_worker("two", "--no-op", **quick)
    killed.kill()
    killed.wait()
    left = changes.until("worker_left")[-1]
    assert told(left, "worker", "died") == ("worker_left", came.worker, True)


def test_pauses_of_workers_and_queues_are_told(client, tmp_path, settings, following):
    worker = heartbeat(client, tmp_path)
    worker._tell()
    changes = following()
    with Farm(settings) as farm:
        farm.pause_queue("pocket")
        farm.pause_worker("mac-3")
        worker._tell()
        worker._tell()
        farm.resume_queue("pocket")
        farm.resume_queue("pocket")
        farm.resume_worker("mac-3")
    heard = changes.until("unpaused") + changes.until("unpaused")
    assert [told(change, "of", "id", "name") for change in heard if change.type != "worker_changed"] == [
        ("paused", "queue", "pocket", "pocket"),
        ("paused", "worker", worker.worker_id, "mac-3"),
        ("unpaused", "queue", "pocket", "pocket"),
        ("unpaused", "worker", worker.worker_id, "mac-3"),
    ]
    assert "has paused it" in [change for change in heard if change.type == "worker_changed"][-1].why_paused


def test_what_nobody_knows_yet_and_what_is_damaged_is_left_out(client, following, caplog):
    changes = following(progress=True)
    for text in ('{"type": "of a newer version", "job": 1}', '{"type": "job_paused"}', "{", b"\xff", "[]"):
        client.publish(NAMES.changes(), text)
    client.publish(NAMES.events("x"), "no number")
    client.publish(NAMES.events("x"), '7 {"type": "of a newer version"}')
    client.publish(NAMES.changes(), '{"type": "job_paused", "job": "one", "a new field": []}')
    assert [changes.next(), changes.next().job] == [JobEvent("x", 7, None), "one"]
    assert len([record for record in caplog.records if "is ignored" in record.message]) >= 2


def test_progress_is_the_events_of_all_jobs(client, following):
    asking, ledger, one = ClientLedger(client, NAMES), Ledger(client, NAMES), new_job()
    changes = following(progress=True)
    asking.submit(one)
    attempt = ledger.claim(one.id, "w1", "mac-3")
    ledger.emit(attempt, events.Stepped(step=1, steps=3, seconds=1))
    ledger.commit(attempt, DONE)
    heard = changes.until("job_event") + changes.until("job_event") + changes.until("job_event")
    numbered = [change for change in heard if isinstance(change, JobEvent)]
    assert [(change.job, change.seq, change.event.type) for change in numbered] == [
        (one.id, 1, "claimed"),
        (one.id, 2, "stepped"),
        (one.id, 3, "done"),
    ]


@pytest.mark.parametrize("progress", [False, True])
def test_after_a_lost_connection_it_says_once_to_read_again(client, following, progress):
    changes = following(progress=progress)
    for _ in range(2):
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert changes.next() == ReadAgain()
    one = new_job()
    ClientLedger(client, NAMES).submit(one)
    assert told(changes.next(), "job") == ("job_submitted", one.id)


def test_a_connection_that_is_dead_without_being_closed_is_noticed(farm_env, client, following, monkeypatch):
    monkeypatch.setattr(feed, "QUIET", 0.2)
    monkeypatch.setattr(feed, "ANSWER_WITHIN", 0.5)
    changes = following()
    process = farm_env.server._process
    process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(4)  # in which a ping is not answered
    finally:
        process.send_signal(signal.SIGCONT)
    assert changes.next() == ReadAgain()


def test_by_rights_of_an_older_version_all_is_done_and_nobody_is_told(client, settings, tmp_path, following):
    """Its users may neither publish on the channel nor subscribe to it; who may not subscribe hears so at once."""
    changes, one, two = following(), new_job(), new_job()
    options = client.connection_pool.connection_kwargs
    channels = [NAMES.cancel("*"), NAMES.events("*")]
    client.acl_setuser("old", enabled=True, nopass=True, keys=["*"], channels=channels, commands=["+@all"])
    try:
        place = {name: options[name] for name in ("host", "port")}
        with redis.Redis(**place, username="old", password="") as old:
            for each in (one, two):
                assert ClientLedger(old, NAMES).submit(each) == "created"
            assert ClientLedger(old, NAMES).cancel(two.id) is Status.QUEUED
            attempt = Ledger(old, NAMES).claim(one.id, "w", "mac")
            Ledger(old, NAMES).commit(attempt, DONE)
            worker = heartbeat(old, tmp_path)
            worker._tell()
            worker.leave()
            farm = Farm.over(old, settings.broker_url, NAMES, None)
            farm.pause_queue("pocket")
            assert farm.resume_queue("pocket")
            assert farm.view(one.id).status is Status.DONE
            with pytest.raises(BrokerUnreachable, match="does not let this user"):
                next(farm.changes())
    finally:
        client.acl_deluser("old")
    ClientLedger(client, NAMES).submit(new_job(job_id="last"))
    assert told(changes.next(), "job") == ("job_submitted", "last")


class Awaited:
    """A task that follows a farm's changes."""

    def __init__(self, farm, **options):
        self.heard = asyncio.Queue()
        self.task = asyncio.create_task(self._follow(farm, options))

    async def _follow(self, farm, options):
        async for change in farm.changes(**options):
            self.heard.put_nowait(change)

    async def next(self):
        return await asyncio.wait_for(self.heard.get(), PATIENCE)


async def until(condition, what):
    """Wait without blocking the loop."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


def test_consumers_of_a_loop_have_one_connection_which_the_last_one_closes(client, settings):
    async def follow():
        async with AsyncFarm(settings) as farm:
            first, second = Awaited(farm), Awaited(farm)
            assert await first.next() == await second.next() == ReadAgain()
            assert len(subscribers(client)) == 1
            late = Awaited(farm)
            assert await late.next() == ReadAgain(), "though the subscription is older"
            first.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first.task
            one = new_job()
            await farm.send(one)
            for consumer in (second, late):
                assert told(await consumer.next(), "job") == ("job_submitted", one.id)
            assert len(subscribers(client)) == 1
            for consumer in (second, late):
                consumer.task.cancel()
            await asyncio.wait([second.task, late.task])
            await until(lambda: not subscribers(client), "the connection being closed")
            again = Awaited(farm)
            assert await again.next() == ReadAgain()
            async for change in farm.changes():
                assert change == ReadAgain()
                break

    asyncio.run(follow())
    wait_until(lambda: not subscribers(client), what="the connection being closed")


def test_after_a_restart_all_consumers_are_told_to_read_again(farm_env, client, settings, following):
    blocking = following()

    async def follow():
        async with AsyncFarm(settings) as farm:
            first, second = Awaited(farm), Awaited(farm, progress=True)
            assert await first.next() == await second.next() == ReadAgain()
            await asyncio.to_thread(farm_env.server.stop)
            await asyncio.sleep(1.5)
            await asyncio.to_thread(farm_env.restart_server)
            assert await first.next() == await second.next() == ReadAgain()
            one = new_job()
            await farm.send(one)
            assert (await first.next()).job == (await second.next()).job == one.id
            return one.id

    job_id = asyncio.run(follow())
    assert blocking.next() == ReadAgain()
    assert blocking.next().job == job_id


def test_a_consumer_that_is_too_slow_is_told_to_read_again(client, settings, monkeypatch):
    monkeypatch.setattr(hub, "LONGEST", 10)

    async def follow():
        async with AsyncFarm(settings) as farm, contextlib.aclosing(farm.changes()) as slow:
            assert await anext(slow) == ReadAgain()
            quick = Awaited(farm)
            assert await quick.next() == ReadAgain()
            ids = [f"job-{number}" for number in range(25)]
            for job_id in ids:
                client.publish(NAMES.changes(), f'{{"type": "job_paused", "job": "{job_id}"}}')
                assert (await quick.next()).job == job_id
            heard = [await anext(slow)]
            assert heard[0] == ReadAgain()
            while heard[-1] == ReadAgain() or heard[-1].job != ids[-1]:
                heard.append(await anext(slow))
            assert len(heard) < len(ids)

    asyncio.run(follow())


def test_a_closed_farm_ends_its_consumers(settings, following):
    blocking = following()
    blocking.end()
    assert "this farm was closed" in str(blocking.error)

    async def follow():
        async with AsyncFarm(settings) as farm:
            consumers = [Awaited(farm), Awaited(farm)]
            for consumer in consumers:
                await consumer.next()
        for consumer in consumers:
            with pytest.raises(FarmError, match="this farm was closed"):
                await asyncio.wait_for(consumer.task, PATIENCE)

    asyncio.run(follow())


def test_a_broker_that_stays_away_is_told_of(farm_env, settings, following, monkeypatch):
    monkeypatch.setattr(feed, "PATIENCE", 0.1)
    blocking = following()

    async def follow():
        async with AsyncFarm(settings) as farm:
            consumers = [Awaited(farm), Awaited(farm)]
            for consumer in consumers:
                await consumer.next()
            await asyncio.to_thread(farm_env.server.stop)
            for consumer in consumers:
                with pytest.raises(BrokerUnreachable, match="cannot reach the broker at"):
                    await asyncio.wait_for(consumer.task, PATIENCE)

    asyncio.run(follow())
    wait_until(lambda: blocking.error, what="the thread being told")
    assert isinstance(blocking.error, BrokerUnreachable)


def test_a_page_that_reads_what_is_told_shows_what_a_full_read_shows(client, settings, following):
    """It subscribes, reads, then applies, also while connections are lost; nothing is asked at intervals."""
    changes, shown = following(), {}
    asking, ledger = ClientLedger(client, NAMES), Ledger(client, NAMES)

    def act():
        for number in range(30):
            one = new_job()
            asking.submit(one)
            if number % 3 == 0:
                asking.cancel(one.id)
            attempt = ledger.claim(one.id, "w", "mac")
            if number % 3 == 1:
                ledger.commit(attempt, DONE)
            if number % 10 == 5:
                with contextlib.suppress(redis.RedisError):
                    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        client.publish(NAMES.changes(), '{"type": "job_removed", "job": "the end"}')

    acting = threading.Thread(target=act)
    acting.start()
    acting.join()
    client.publish(NAMES.changes(), '{"type": "job_paused", "job": "nothing"}')
    with Farm(settings) as farm:

        def statuses():
            return {view.job.id: view.status for view in farm.jobs(1000)}

        def apply(change):
            if change == ReadAgain():
                shown.clear()
                shown.update(statuses())
            elif change.type.startswith("job_") and change.job in statuses():
                shown[change.job] = farm.view(change.job).status

        deadline = time.monotonic() + PATIENCE
        apply(ReadAgain())
        while len(shown) < 30 or shown != statuses():
            assert time.monotonic() < deadline
            apply(changes.next())
        assert set(shown.values()) == {Status.CANCELLED, Status.RUNNING, Status.DONE}
