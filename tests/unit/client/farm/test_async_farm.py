"""`AsyncFarm` has the surface of `Farm`, and shows the same of the same farm."""

import asyncio
import inspect
import re

import fakeredis
import pytest
from pydantic import SecretStr

from ltx_client import AsyncFarm, AsyncRender, Farm, Render
from ltx_client.errors import FarmError, UsageError
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.workers import WorkerInfo
from ltx_worker.ledger.ledger import Ledger

URL = SecretStr("redis://localhost")
BATCH = "0199c0de-0000-7000-8000-00000000beef"
WITHOUT_BROKER = {"is_embedded", "storage_url"}
"""Properties of both kinds, which ask nobody."""
HANDLES = {"job"}
"""Methods of both kinds that ask nobody."""
FOR_MANY = {"watch", "log", "changes", "remove", "updates", "events"}
"""What gives one thing after another."""


def surface(kind):
    return {name: inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_")}


def parameters(function):
    """Names, defaults and kinds, and annotations but for the names of our own two classes."""
    function = getattr(function, "__func__", function)
    found = inspect.signature(function).parameters.values()
    return [
        (one.name, one.kind, one.default, re.sub(r"Async(?=Render)|\.asyncio(?=\.)", "", str(one.annotation)))
        for one in found
    ]


@pytest.mark.parametrize(("blocking", "awaited"), [(Farm, AsyncFarm), (Render, AsyncRender)])
def test_the_surfaces_are_the_same(blocking, awaited):
    ours, theirs = surface(blocking), surface(awaited)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    for name, member in ours.items():
        other = theirs[name]
        if name in WITHOUT_BROKER:
            assert isinstance(member, property) and isinstance(other, property)
            assert (member.fset is None) == (other.fset is None)
        elif isinstance(member, property):
            assert inspect.iscoroutinefunction(other), name
            assert [one.name for one in inspect.signature(other).parameters.values()] == ["self"]
        else:
            assert parameters(member) == parameters(other), name
            function = getattr(other, "__func__", other)
            assert inspect.iscoroutinefunction(function) != (name in HANDLES | FOR_MANY | {"over"}), name
            assert other.__doc__ or function.__doc__, name


def test_the_constructors_take_the_same_and_errors_are_of_one_tree():
    assert parameters(Farm.__init__) == parameters(AsyncFarm.__init__)
    assert parameters(Render.__init__)[2:] == parameters(AsyncRender.__init__)[2:]


def test_a_handle_says_what_it_is_of(both, names):
    _, client = both
    assert repr(AsyncFarm.over(client, URL, names, None).job("x")) == "<AsyncRender x>"


@pytest.fixture
def server():
    return fakeredis.FakeServer()


@pytest.fixture
def redis_client(server):
    return fakeredis.FakeRedis(server=server)


@pytest.fixture
def both(server, redis_client, names, make_job):
    """A farm with jobs in several states, as `Farm` has it, and a client of asyncio's of the same server."""
    sent, ledger = ClientLedger(redis_client, names), Ledger(redis_client, names)
    farm = Farm.over(redis_client, URL, names, None)
    for number, job_id in enumerate(("done-1111", "failed-2222", "running-3333", "waiting-4444", "later-5555")):
        job = make_job(id=job_id)
        relations = Relations(batch=BATCH, item=number) if number < 2 else Relations()
        sent.submit(job, Relations(after_jobs=("waiting-4444",)) if job_id == "later-5555" else relations)
    redis_client.hset(names.batch(BATCH), mapping={"name": "shots.csv", "submitted_at": 1})
    redis_client.zadd(names.batches(), {BATCH: 1})
    attempt = ledger.claim("done-1111", "w", "mac")
    ledger.emit(attempt, events.Stepped(step=1, steps=1, seconds=1))
    ledger.commit(attempt, events.Done(result=Result(video="a", sidecar="b", size=1, sha256="0")))
    ledger.commit(ledger.claim("failed-2222", "w", "mac"), events.Failed(error="no"))
    running = ledger.claim("running-3333", "w", "mac")
    ledger.emit(running, events.Previewed(step=1), b"\xff\xd8\xff\xe0 and so on")
    fields = {"memory": 64 * 10**9, "budget_gb": 48, "variant": "pocket", "version": "1", "chip": "M2"}
    worker = WorkerInfo(id="w", name="mac", started_at=1, seen_at=1, **fields)
    redis_client.hset(names.worker("w"), mapping=worker.fields())
    redis_client.zadd(names.workers(), {"w": 1})
    farm.pause_queue("distilled")
    return farm, fakeredis.FakeAsyncRedis(server=server)


READS = [
    ("jobs", ()),
    ("jobs", (2,)),
    ("all_jobs", ()),
    ("view", ("done-1111",)),
    ("view", ("nothing",)),
    ("find", ("4444",)),
    ("find", ("444",)),
    ("find", ("",)),
    ("batch", ("beef",)),
    ("batch", ("dead",)),
    ("batches", ()),
    ("relations", (["beef", "3333"], ["mac"])),
    ("relations", ((), [" "])),
    ("relations", (["gone"],)),
    ("preview", ("running-3333",)),
    ("preview", ("done-1111",)),
    ("link", ("done-1111",)),
    ("poster", ("done-1111",)),
    ("poster", ("nothing",)),
    ("workers", ()),
    ("pauses", ()),
    ("turns", (["pocket"],)),
    ("why_waiting", ("later-5555",)),
    ("why_waiting", ("done-1111",)),
    ("open_jobs_and_paces", ()),
    ("places", ()),
    ("check", ()),
    ("prioritize", ("waiting-4444", 3)),
    ("prioritize", ("waiting-4444", 10)),
    ("pause", ("waiting-4444",)),
    ("pause", ("nothing",)),
    ("resume", ("waiting-4444",)),
    ("resume_worker", ("mac",)),
    ("resume_worker", ("nobody",)),
    ("resume_queue", ("pocket",)),
    ("cancel", ("waiting-4444",)),
    ("cancel", ("nothing",)),
    ("retry", ("done-1111",)),
]


def answer(call):
    try:
        return call()
    except FarmError as error:
        return type(error), str(error)


@pytest.mark.parametrize(("name", "arguments"), READS)
def test_both_answer_the_same(both, names, name, arguments):
    """Errors are answers, too. What changes something says the same when it is said again."""
    farm, client = both
    blocking = answer(lambda: getattr(farm, name)(*arguments))

    async def ask():
        async with client, AsyncFarm.over(client, URL, names, None) as awaited:
            return await getattr(awaited, name)(*arguments)

    assert answer(lambda: asyncio.run(ask())) == blocking


@pytest.mark.parametrize(("name", "job_id"), [("log", "running-3333"), ("log", "done-1111"), ("watch", "done-1111")])
def test_both_follow_the_same(both, names, name, job_id):
    farm, client = both

    async def follow():
        async with client:
            return [update async for update in getattr(AsyncFarm.over(client, URL, names, None), name)(job_id)]

    followed = asyncio.run(follow())
    assert followed == list(getattr(farm, name)(job_id))
    assert len(followed) > 1


def test_a_handle_waits_and_says_how_its_job_ended(both, names):
    farm, client = both

    async def wait():
        async with client:
            awaited = AsyncFarm.over(client, URL, names, None)
            assert (await (await awaited.job("done-1111").wait(60)).status()) == "done"
            assert [event.type async for event in awaited.job("done-1111").events()] == ["claimed", "stepped", "done"]
            assert (await awaited.job("running-3333").snapshot()).worker_name == "mac"
            with pytest.raises(FarmError) as failed:
                await awaited.job("failed-2222").wait()
            with pytest.raises(TimeoutError) as late:
                await awaited.job("waiting-4444").wait(timeout=0.05)
            await awaited.job("waiting-4444").cancel()
            with pytest.raises(FarmError) as cancelled:
                await awaited.job("waiting-4444").wait()
            return failed.value, late.value, cancelled.value

    failed, late, cancelled = asyncio.run(wait())
    for error, job_id in ((failed, "failed-2222"), (cancelled, "waiting-4444")):
        with pytest.raises(type(error), match=f"^{error}$"):
            farm.job(job_id).wait()
    assert str(late).startswith("job waiting-4444 has not ended within 0.05 s")


def test_a_farm_that_is_closed_is_no_longer_connected(both, names):
    _, client = both

    async def close():
        async with client:
            awaited = AsyncFarm.over(client, URL, names, "/farm")
            assert (awaited.storage_url, awaited.is_embedded) == ("/farm", False)
            await awaited.close()
            await awaited.close()
            with pytest.raises(RuntimeError, match="async with"):
                await awaited.jobs()
            assert await client.ping(), "which is its owner's to close"

    asyncio.run(close())


def test_a_render_is_refused_as_by_a_farm(both, names):
    farm, client = both

    async def render():
        async with client:
            await AsyncFarm.over(client, URL, names, None).render("a", num_stepz=3)

    with pytest.raises(UsageError) as ours:
        farm.render("a", num_stepz=3)
    with pytest.raises(UsageError, match=re.escape(str(ours.value))):
        asyncio.run(render())
