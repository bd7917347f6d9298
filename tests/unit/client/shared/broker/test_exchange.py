"""Exchanges with the broker: carried out by both kinds of client to the same answers, errors and clean-ups."""

import asyncio
import threading

import fakeredis
import pytest
import redis

from ltx_client.shared.broker.exchange import (
    Command,
    Item,
    ScriptCall,
    Sleep,
    ask,
    ask_all,
    block,
    run,
    run_async,
    run_script,
    stream,
    stream_async,
)
from ltx_client.shared.lua.lua_script import load_script
from ltx_client.shared.unexpected_data import ask_or

BATCH = {"batch": "b", "batch_jobs": "b:jobs", "batches": "batches", "id": "1", "job_prefix": "job:", "just_noted": 1}
SCRIPT = load_script("ltx_client.farm.ledger", "note_batch")
NAMED = {**BATCH, "name": "file", "submitter": "me", "changes": "changes", "submitted": "{}"}


@pytest.fixture(params=["blocking", "asyncio"])
def carry_out(request):
    """Carries out an exchange with a client of its kind. Returns its result."""
    server = fakeredis.FakeServer()
    if request.param == "blocking":
        return lambda exchange: run(fakeredis.FakeRedis(server=server), exchange)

    async def carry_out_async(exchange):
        async with fakeredis.FakeAsyncRedis(server=server) as client:
            return await run_async(client, exchange)

    return lambda exchange: asyncio.run(carry_out_async(exchange))


@pytest.fixture(params=["blocking", "asyncio"])
def items_of(request):
    """Carries out an exchange with a client of its kind. Returns its items."""
    if request.param == "blocking":
        return lambda exchange: list(stream(fakeredis.FakeRedis(), exchange))

    async def collect(exchange):
        async with fakeredis.FakeAsyncRedis() as client:
            return [item async for item in stream_async(client, exchange)]

    return lambda exchange: asyncio.run(collect(exchange))


def test_answers_come_back_where_they_were_asked_for(carry_out):
    def exchange():
        yield from ask("set", "key", "value")
        alone = yield from ask("get", "key")
        both = yield from ask_all([Command("get", ["key"]), Command("exists", ["key", "other"])])
        done = yield from run_script(SCRIPT, **NAMED)
        again = yield from ask_all([ScriptCall(SCRIPT, NAMED), ScriptCall(SCRIPT, NAMED), Command("exists", ["b"])])
        yield Sleep(0)
        elsewhere = yield from block(threading.get_ident)
        return alone, both, done, again[2], elsewhere

    alone, both, _, noted, elsewhere = carry_out(exchange())
    assert (alone, both, noted) == (b"value", [b"value", 1], 1)
    assert isinstance(elsewhere, int)


def test_errors_are_raised_where_it_was_asked(carry_out):
    caught = []

    def exchange():
        yield from ask("rpush", "list", "x")
        try:
            yield from ask("get", "list")
        except redis.ResponseError as error:
            caught.append(type(error))
        try:
            yield from ask_all([Command("get", ["list"])])
        except redis.ResponseError as error:
            caught.append(type(error))
        try:
            yield from block(int, "no number")
        except ValueError as error:
            caught.append(type(error))
        yield from ask("lset", "list", 7, "x")
        return caught

    with pytest.raises(redis.ResponseError, match="range"):
        carry_out(exchange())
    assert caught == [redis.ResponseError, redis.ResponseError, ValueError]


def test_a_key_of_another_kind_is_set_aside_and_other_errors_are_not(carry_out):
    def exchange():
        yield from ask("rpush", "list", "x")
        other = yield from ask_or("other", "list", "get")
        (told,) = yield from ask_all([Command("get", ["list"])], raise_on_error=False)
        try:
            yield from ask_or(None, "list", "lset", 7, "x")
        except redis.ResponseError as error:
            return other, type(told), type(error)

    assert carry_out(exchange()) == ("other", redis.ResponseError, redis.ResponseError)


def test_what_is_to_be_done_at_the_end_is_done_after_an_error(carry_out):
    def exchange():
        try:
            yield from block(int, "no number")
        finally:
            yield from ask("set", "cleaned", "up")

    with pytest.raises(ValueError, match="no number"):
        carry_out(exchange())
    assert carry_out(ask("get", "cleaned")) == b"up"


def test_items_go_to_who_follows(items_of):
    def exchange():
        for number in range(3):
            yield from ask("incr", "key")
            yield Item((number, (yield from ask("get", "key"))))

    assert items_of(exchange()) == [(0, b"1"), (1, b"2"), (2, b"3")]


def test_items_that_nobody_follows_are_a_mistake(carry_out):
    def exchange():
        yield Item(1)

    with pytest.raises(TypeError, match="not streamed"):
        carry_out(exchange())


def test_what_is_to_be_done_at_the_end_is_done_when_a_task_is_cancelled():
    async def cancelled():
        async with fakeredis.FakeAsyncRedis() as client:
            begun = asyncio.Event()

            def exchange():
                try:
                    begun.set()
                    yield Sleep(3600)
                finally:
                    yield from ask("set", "cleaned", "up")

            task = asyncio.create_task(run_async(client, exchange()))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.get("cleaned")

    assert asyncio.run(cancelled()) == b"up"


def test_a_cancelled_task_gives_up_nothing_that_its_thread_still_uses():
    """A lock that is given up while files are removed would let a new job lose its picture."""
    order = []

    def exchange(started, go_on):
        try:
            yield from block(lambda: (started.set(), go_on.wait(60), order.append("thread")))
        finally:
            order.append("given up")

    async def cancel():
        started, go_on = threading.Event(), threading.Event()
        async with fakeredis.FakeAsyncRedis() as client:
            task = asyncio.create_task(run_async(client, exchange(started, go_on)))
            await asyncio.to_thread(started.wait, 60)
            for _ in range(3):  # as who presses Ctrl-C again
                task.cancel()
                await asyncio.sleep(0.01)
            assert not task.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert order == ["thread", "given up"]


def test_an_exchange_whose_loop_is_gone_is_closed_without_a_word():
    """What it would do at its end cannot be awaited any more."""

    def exchange():
        try:
            yield Sleep(60)
        finally:
            yield Sleep(60)

    coroutine = run_async(None, exchange())

    async def begin():
        task = asyncio.ensure_future(asyncio.sleep(0))
        await task
        coroutine.send(None)

    asyncio.run(begin())
    coroutine.close()


def test_who_stops_following_closes_the_exchange():
    closed = []

    def exchange():
        try:
            yield Item(1)
            yield Item(2)
        finally:
            closed.append(True)

    followed = stream(fakeredis.FakeRedis(), exchange())
    assert next(followed) == 1
    followed.close()

    async def follow():
        followed = stream_async(None, exchange())
        assert await anext(followed) == 1
        await followed.aclose()

    asyncio.run(follow())
    assert closed == [True, True]
