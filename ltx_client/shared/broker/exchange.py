"""Exchanges with the broker, written once for redis-py's client and for its asyncio's.

An exchange is a generator that does no input or output itself. It yields what is to be done, such as a `Command`, and
is sent the answer, or has the error raised where it yielded; its return value is the result:

    def count(key: str) -> Exchange[int]:
        return (yield from ask("zcard", key)) or 0

    run(client, count("jobs"))                  with redis.Redis, and a thread that waits
    await run_async(client, count("jobs"))      with redis.asyncio.Redis, and an event loop

One that also yields each `Item` as it comes is carried out by `stream` and `stream_async`. What an exchange does when
an error, a cancelling or Ctrl-C is raised in it, as in `finally`, is carried out too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ltx_client.shared.lua.lua_script import Argument, LuaScript

if TYPE_CHECKING:
    import redis
    import redis.asyncio

__all__ = [
    "Blocking",
    "Command",
    "Exchange",
    "Item",
    "Pipeline",
    "Request",
    "ScriptCall",
    "Sleep",
    "ask",
    "ask_all",
    "block",
    "in_thread",
    "run",
    "run_async",
    "run_script",
    "stream",
    "stream_async",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """A command to the broker: the name of a method of redis-py's clients, and what it is given."""

    method: str
    arguments: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScriptCall:
    """A script that the broker runs, with its keys and arguments by name."""

    script: LuaScript
    named: Mapping[str, Argument]


@dataclass(frozen=True)
class Pipeline:
    """Several requests in one round trip; the answer is the list of theirs.

    Attributes:
        raise_on_error: Whether to raise the first error; otherwise errors are among the answers.
    """

    requests: Sequence[Command | ScriptCall]
    raise_on_error: bool = True


@dataclass(frozen=True)
class Sleep:
    """A wait."""

    seconds: float


@dataclass(frozen=True)
class Blocking:
    """A call that blocks on anything but the broker, such as files.

    An event loop has a thread do it, which finishes it also if the task that waits for it is cancelled.
    """

    call: Callable[[], Any]


@dataclass(frozen=True)
class Item:
    """Something for who follows the exchange."""

    value: Any


Request = Command | ScriptCall | Pipeline | Sleep | Blocking | Item
Exchange: TypeAlias = Generator[Request, Any, T]


def ask(method: str, *arguments: Any, **options: Any) -> Exchange[Any]:
    """Send a command. Return its answer."""
    return (yield Command(method, arguments, options))


def ask_all(requests: Sequence[Command | ScriptCall], *, raise_on_error: bool = True) -> Exchange[list[Any]]:
    """Send many in one round trip. Return their answers."""
    answers: list[Any] = yield Pipeline(requests, raise_on_error)
    return answers


def run_script(script: LuaScript, **named: Argument) -> Exchange[Any]:
    """Have the broker run a script. Return its answer. Raise TypeError as `LuaScript.arrange`."""
    return (yield ScriptCall(script, named))


def block(call: Callable[..., T], *arguments: Any, **options: Any) -> Exchange[T]:
    """Call what blocks. Return what it returns."""
    result: T = yield Blocking(partial(call, *arguments, **options))
    return result


def run(client: redis.Redis, exchange: Exchange[T]) -> T:
    """Carry out an exchange without items. Return its result."""
    advance = partial(next, exchange)
    with contextlib.closing(exchange):
        while True:
            try:
                request = advance()
            except StopIteration as end:
                result: T = end.value
                return result
            advance = _answered(client, exchange, request)


def stream(client: redis.Redis, exchange: Exchange[object]) -> Generator[Any]:
    """Carry out an exchange. Yield its items."""
    advance = partial(next, exchange)
    with contextlib.closing(exchange):
        while True:
            try:
                request = advance()
            except StopIteration:
                return
            if isinstance(request, Item):
                yield request.value
                advance = partial(next, exchange)
            else:
                advance = _answered(client, exchange, request)


async def run_async(client: redis.asyncio.Redis, exchange: Exchange[T]) -> T:
    """Carry out an exchange without items. Return its result."""
    advance = partial(next, exchange)
    with contextlib.closing(exchange):
        while True:
            try:
                request = advance()
            except StopIteration as end:
                result: T = end.value
                return result
            advance = await _answered_async(client, exchange, request)


async def stream_async(client: redis.asyncio.Redis, exchange: Exchange[object]) -> AsyncGenerator[Any]:
    """Carry out an exchange. Yield its items."""
    advance = partial(next, exchange)
    with contextlib.closing(exchange):
        while True:
            try:
                request = advance()
            except StopIteration:
                return
            if isinstance(request, Item):
                yield request.value
                advance = partial(next, exchange)
            else:
                advance = await _answered_async(client, exchange, request)


def _answered(client: Any, exchange: Exchange[Any], request: Request) -> Any:
    """Carry out a request. Return what takes the exchange to its next one."""
    try:
        return partial(exchange.send, _carry_out(client, request))
    except BaseException as error:  # noqa: BLE001 - the exchange's to handle, or to raise again
        return partial(exchange.throw, error)


async def _answered_async(client: Any, exchange: Exchange[Any], request: Request) -> Any:
    try:
        return partial(exchange.send, await _carry_out_async(client, request))
    except GeneratorExit:  # the loop is gone, and nothing more can be awaited
        with contextlib.suppress(RuntimeError):  # of an exchange that wants to, at its end
            exchange.close()
        raise
    except BaseException as error:  # noqa: BLE001 - the exchange's to handle, or to raise again
        return partial(exchange.throw, error)


def _carry_out(client: Any, request: Request) -> Any:
    match request:
        case Command():
            return _send(client, request)
        case ScriptCall(script, named):
            return _registered(client, script)(*script.arrange(named))
        case Pipeline(requests, raise_on_error):
            with client.pipeline(transaction=False) as pipeline:
                scripts: dict[str, Any] = {}
                for one in requests:
                    if isinstance(one, Command):
                        _send(pipeline, one)
                    else:
                        _script_of(scripts, client, one.script)(*one.script.arrange(one.named), client=pipeline)
                return pipeline.execute(raise_on_error=raise_on_error)
        case Sleep(seconds):
            return time.sleep(seconds)
        case Blocking(call):
            return call()
    raise TypeError(f"an exchange that is not streamed has no use for {request}")


async def _carry_out_async(client: Any, request: Request) -> Any:
    match request:
        case Command():
            return await _send(client, request)
        case ScriptCall(script, named):
            return await _registered(client, script)(*script.arrange(named))
        case Pipeline(requests, raise_on_error):
            async with client.pipeline(transaction=False) as pipeline:
                scripts: dict[str, Any] = {}
                for one in requests:
                    if isinstance(one, Command):
                        _send(pipeline, one)
                    else:
                        script = _script_of(scripts, client, one.script)
                        await script(*one.script.arrange(one.named), client=pipeline)
                return await pipeline.execute(raise_on_error=raise_on_error)
        case Sleep(seconds):
            return await asyncio.sleep(seconds)
        case Blocking(call):
            return await in_thread(call)
    raise TypeError(f"an exchange that is not streamed has no use for {request}")


async def in_thread(call: Callable[[], T]) -> T:
    """Call what blocks in a thread. A cancelled task waits for the thread: what it uses is only given up then."""
    context = contextvars.copy_context()
    thread = asyncio.get_running_loop().run_in_executor(None, partial(context.run, call))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # of which nobody is told: the task was cancelled
        raise


def _send(client: Any, command: Command) -> Any:
    return getattr(client, command.method)(*command.arguments, **command.options)


def _registered(client: Any, script: LuaScript) -> Any:
    return client.register_script(script.text)


def _script_of(known: dict[str, Any], client: Any, script: LuaScript) -> Any:
    """Return one script for all of its calls in a pipeline, which asks first whether the server knows each."""
    if script.name not in known:
        known[script.name] = _registered(client, script)
    return known[script.name]
