"""The Python API for programs with an event loop: the same names, awaited. The work is done in threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.farm.render import Render
from ltx_client.protocol.events import Event
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import WorkerInfo

__all__ = ["AsyncFarm", "AsyncRender"]

T = TypeVar("T")
_END = object()


class AsyncFarm:
    """A farm, connected while inside `async with`. Takes what `Farm` takes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._args = args
        self._options = options
        self._farm: Farm | None = None

    async def __aenter__(self) -> Self:
        self._farm = await asyncio.to_thread(Farm, *self._args, **self._options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.farm.close)

    @property
    def farm(self) -> Farm:
        """The farm itself, whose methods block."""
        if self._farm is None:
            raise RuntimeError("the farm is not connected; use it inside `async with AsyncFarm() as farm`")
        return self._farm

    async def render(self, prompt: str, **options: Any) -> AsyncRender:
        """As `Farm.render`."""
        return AsyncRender(await asyncio.to_thread(self.farm.render, prompt, **options))

    def job(self, job_id: str) -> AsyncRender:
        """A handle on a job that there is already."""
        return AsyncRender(Render(self.farm, job_id))

    async def jobs(self, limit: int = 50) -> list[JobView]:
        """As `Farm.jobs`."""
        return await asyncio.to_thread(self.farm.jobs, limit)

    async def workers(self) -> list[WorkerInfo]:
        """As `Farm.workers`."""
        return await asyncio.to_thread(self.farm.workers)


class AsyncRender:
    """One job of a farm; see `Render`."""

    def __init__(self, render: Render) -> None:
        self.id = render.id
        self._render = render

    async def view(self) -> JobView:
        """The job as it is now."""
        return await asyncio.to_thread(lambda: self._render.view)

    async def why_waiting(self) -> str:
        """As `Render.why_waiting`."""
        return await asyncio.to_thread(self._render.why_waiting)

    def updates(self) -> AsyncIterator[Update]:
        """As `Render.updates`."""
        return _in_threads(self._render.updates())

    def events(self) -> AsyncIterator[Event]:
        """As `Render.events`."""
        return _in_threads(self._render.events())

    async def wait(self, timeout: float | None = None) -> Self:
        """As `Render.wait`. When it is cancelled, the job goes on."""
        async with asyncio.timeout(timeout), contextlib.aclosing(_in_threads(self._render.updates())) as updates:
            async for _ in updates:
                pass
        await asyncio.to_thread(self._render.check)
        return self

    async def download(self, target: str | Path | None = None) -> Path:
        """As `Render.download`."""
        return await asyncio.to_thread(self._render.download, target)

    async def preview(self) -> bytes | None:
        """As `Render.preview`."""
        return await asyncio.to_thread(self._render.preview)

    async def cancel(self) -> Status:
        """As `Render.cancel`."""
        return await asyncio.to_thread(self._render.cancel)

    async def pause(self) -> Status:
        """As `Render.pause`."""
        return await asyncio.to_thread(self._render.pause)

    async def resume(self) -> Status:
        """As `Render.resume`."""
        return await asyncio.to_thread(self._render.resume)

    async def retry(self) -> AsyncRender:
        """As `Render.retry`."""
        return AsyncRender(await asyncio.to_thread(self._render.retry))


async def _in_threads(iterator: Iterator[T]) -> AsyncGenerator[T]:
    """The same items; each is waited for in a thread."""
    while True:
        item: Any = await asyncio.to_thread(next, iterator, _END)
        if item is _END:
            return
        yield item
