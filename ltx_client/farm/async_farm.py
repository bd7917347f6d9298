"""Provide the Python API for programs with an event loop: the names, arguments and errors of `Farm`, awaited.

    async with AsyncFarm() as farm:
        job = await farm.render("a red ball rolls to the right on a navy background")
        print(await (await job.wait()).download("ball.mp4"))

Both use the same code (`ltx_client.farm.operations`), which is run here with redis-py's client for asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import SecretStr

from ltx_client.farm.batches import Batch, PreparedBatch
from ltx_client.farm.broker import connect_async
from ltx_client.farm.changes.feed import Heard
from ltx_client.farm.changes.hub import Hub
from ltx_client.farm.connection import enter_farm
from ltx_client.farm.jobs.forecast import Paces, Place, Turns
from ltx_client.farm.jobs.inputs import Inputs
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.farm.operations import Operations
from ltx_client.farm.outputs.naming import video_path
from ltx_client.farm.render import check_done, ids_of, not_ended
from ltx_client.farm.retention import Old, Removed
from ltx_client.local.members import FarmFolder, Use
from ltx_client.protocol.events import Event
from ltx_client.protocol.fair_turns import DEFAULT_PRIORITY
from ltx_client.protocol.jobs import NO_RELATIONS, Job, Relations
from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Snapshot, Status
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.broker.exchange import Exchange, in_thread, run_async, stream_async
from ltx_client.shared.settings import FarmSettings
from ltx_client.shared.storage.store import Storage
from ltx_models.families.variants import DEFAULT_VARIANT
from ltx_models.request import GenerationRequest

if TYPE_CHECKING:
    import redis.asyncio

__all__ = ["AsyncFarm", "AsyncRender"]

T = TypeVar("T")


class AsyncFarm:
    """A farm, connected while inside `async with`, or from `await AsyncFarm.connect()` to `await farm.close()`.

    It takes what `Farm` takes, and its methods do and raise what the methods of the same names do there. The loop
    itself awaits everything that is asked of the broker: watching, listings, cancelling and so on need no thread. A
    thread of the loop's pool (`asyncio.to_thread`) does what waits for files, the storage or Celery: in `render`,
    `submit`, `send`, `send_batch` and `retry` the reading and storing of inputs and the job's message; in `download`
    the copying; in `remove` the removal of files; and the start and end of this machine's own farm. Such a thread
    finishes what it has begun: a task that is cancelled waits for it.

    A watcher has one connection to the broker, and a cancelled task closes the connection that it waits on. `close`
    ends watchers with FarmError. A farm belongs to the loop in which it was connected. A loop that is kept busy for
    more than three seconds takes the broker for one that does not answer: call what takes long in a thread.
    """

    def __init__(
        self, settings: FarmSettings | None = None, *, use: Use = Use.RENDER, variant: str = DEFAULT_VARIANT
    ) -> None:
        """See `Farm`. Nothing is connected yet."""
        self._how = settings, use, variant
        self._connected: tuple[Operations, redis.asyncio.Redis] | None = None
        self._owns_client = True
        self._leave: Callable[[], object] = lambda: None
        self._hubs: dict[bool, Hub] = {}

    @classmethod
    def over(
        cls,
        client: redis.asyncio.Redis,
        broker_url: SecretStr,
        names: Names,
        storage_url: str | None,
        embedded: FarmFolder | None = None,
    ) -> Self:
        """Return a farm over an existing connection, which its owner closes."""
        farm = cls()
        farm._connected = Operations(broker_url, names, storage_url, embedded), client
        farm._owns_client = False
        return farm

    @classmethod
    async def connect(
        cls, settings: FarmSettings | None = None, use: Use = Use.RENDER, variant: str = DEFAULT_VARIANT
    ) -> Self:
        """Return a connected farm."""
        return await cls(settings, use=use, variant=variant).__aenter__()

    async def __aenter__(self) -> Self:
        if self._connected is None:
            stack = contextlib.ExitStack()
            try:
                operations = await in_thread(partial(_enter, *self._how, stack))
                client = await connect_async(operations.broker_url)
            except BaseException:  # also a cancel: what was joined is left
                await asyncio.to_thread(stack.close)
                raise
            self._connected = operations, client
            self._leave = weakref.finalize(self, stack.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect, and leave an embedded farm. The end of the program closes what is still open."""
        if self._connected is None:
            return
        (operations, client), self._connected = self._connected, None
        operations.closed = True
        try:
            if self._owns_client:
                await client.aclose()
        finally:
            if operations.embedded is not None:
                await asyncio.to_thread(self._leave)

    @property
    def is_embedded(self) -> bool:
        """Return whether this is the farm of this machine alone, with a broker of its own."""
        return self._operations.embedded is not None

    @property
    def storage_url(self) -> str | None:
        """Return where the farm's videos are stored; None if that is not known here."""
        return self._operations.storage_url

    @storage_url.setter
    def storage_url(self, url: str | None) -> None:
        self._operations.storage_url = url

    async def render(
        self,
        prompt: str,
        *,
        after: Sequence[AsyncRender | str] = (),
        not_on: Sequence[str] = (),
        variant: str = DEFAULT_VARIANT,
        priority: int = DEFAULT_PRIORITY,
        checkpoint_every: int = 3,
        time_limit: float | None = None,
        job_id: str | None = None,
        **fields: Any,
    ) -> AsyncRender:
        """See `Farm.render`."""
        job = await self._run(
            self._operations.render(
                prompt,
                ids_of(after),
                not_on,
                fields,
                variant=variant,
                priority=priority,
                checkpoint_every=checkpoint_every,
                time_limit=time_limit,
                job_id=job_id,
            )
        )
        return AsyncRender(self, job.id)

    def job(self, job_id: str) -> AsyncRender:
        """Return a handle on an existing job."""
        self._operations  # noqa: B018 - which is of a farm that is connected
        return AsyncRender(self, job_id)

    async def all_jobs(self) -> tuple[list[JobView], list[str]]:
        """See `Farm.all_jobs`."""
        return await self._run(self._operations.all_jobs())

    def remove(self, old: Old, storage: Storage | None) -> AsyncGenerator[Removed]:
        """See `Farm.remove`."""
        return self._stream(self._operations.remove(old, storage))

    async def cancel(self, job_id: str) -> Status:
        """See `Farm.cancel`."""
        return await self._run(self._operations.cancel(job_id))

    async def pause(self, job_id: str) -> Status:
        """See `Farm.pause`."""
        return await self._run(self._operations.pause(job_id))

    async def resume(self, job_id: str) -> Status:
        """See `Farm.resume`."""
        return await self._run(self._operations.resume(job_id))

    async def pauses(self) -> list[Pause]:
        """See `Farm.pauses`."""
        return await self._run(self._operations.pauses())

    async def pause_worker(self, name: str) -> Pause:
        """See `Farm.pause_worker`."""
        return await self._run(self._operations.pause_worker(name))

    async def resume_worker(self, name: str) -> bool:
        """See `Farm.resume_worker`."""
        return await self._run(self._operations.resume_worker(name))

    async def pause_queue(self, variant: str) -> Pause:
        """See `Farm.pause_queue`."""
        return await self._run(self._operations.pause_queue(variant))

    async def resume_queue(self, variant: str) -> bool:
        """See `Farm.resume_queue`."""
        return await self._run(self._operations.resume_queue(variant))

    async def prioritize(self, job_id: str, priority: int) -> Status:
        """See `Farm.prioritize`."""
        return await self._run(self._operations.prioritize(job_id, priority))

    async def batch(self, text: str) -> Batch:
        """See `Farm.batch`."""
        return await self._run(self._operations.batch(text))

    async def batches(self, limit: int = 50) -> list[Batch]:
        """See `Farm.batches`."""
        return await self._run(self._operations.batches(limit))

    async def relations(self, after: Sequence[str] = (), not_on: Sequence[str] = ()) -> Relations:
        """See `Farm.relations`."""
        return await self._run(self._operations.relations(after, not_on))

    async def preview(self, job_id: str) -> bytes | None:
        """See `Farm.preview`."""
        return await self._run(self._operations.preview(job_id))

    async def download(self, job_id: str, target: Path) -> None:
        """See `Farm.download`."""
        await self._run(self._operations.download(job_id, target))

    async def poster(self, job_id: str) -> bytes | None:
        """See `Farm.poster`."""
        return await self._run(self._operations.poster(job_id))

    async def link(self, job_id: str) -> str | None:
        """See `Farm.link`."""
        return await self._run(self._operations.link(job_id))

    async def workers(self) -> list[WorkerInfo]:
        """See `Farm.workers`."""
        return await self._run(self._operations.workers())

    async def open_jobs_and_paces(self) -> tuple[list[JobView], Paces]:
        """See `Farm.open_jobs_and_paces`."""
        return await self._run(self._operations.open_jobs_and_paces())

    async def places(self) -> dict[str, Place]:
        """See `Farm.places`."""
        return await self._run(self._operations.places())

    async def why_waiting(self, job_id: str) -> str:
        """See `Farm.why_waiting`."""
        return await self._run(self._operations.why_waiting(job_id))

    async def why_waiting_all(self, views: Sequence[JobView]) -> dict[str, str]:
        """See `Farm.why_waiting_all`."""
        return await self._run(self._operations.why_waiting_all(views))

    async def turns(self, variants: Collection[str]) -> Turns:
        """See `Farm.turns`."""
        return await self._run(self._operations.turns(variants))

    async def submit(self, request: GenerationRequest, **options: Any) -> Job:
        """See `Farm.submit`."""
        return await self._run(self._operations.submit(request, **options))

    async def send(self, job: Job, inputs: Inputs | None = None, relations: Relations = NO_RELATIONS) -> None:
        """See `Farm.send`."""
        await self._run(self._operations.send(job, inputs, relations))

    async def send_batch(self, batch: PreparedBatch) -> None:
        """See `Farm.send_batch`."""
        await self._run(self._operations.send_batch(batch))

    async def retry(self, job_id: str) -> Job:
        """See `Farm.retry`."""
        return await self._run(self._operations.retry(job_id))

    def watch(self, *job_ids: str) -> AsyncGenerator[Update]:
        """See `Farm.watch`."""
        return self._stream(self._operations.watch(job_ids))

    async def changes(self, *, progress: bool = False) -> AsyncGenerator[Heard]:
        """See `Farm.changes`. All consumers of this farm have one connection, those with `progress` another one."""
        operations, client = self._there
        hub = self._hubs.get(progress)
        if hub is None or hub.is_over:
            hub = self._hubs[progress] = Hub(client, operations.feed(progress=progress))
        async with contextlib.aclosing(hub.follow()) as changes:
            async for heard in changes:
                yield heard

    def log(self, job_id: str) -> AsyncGenerator[Update]:
        """See `Farm.log`."""
        return self._stream(self._operations.log(job_id))

    async def view(self, job_id: str) -> JobView:
        """See `Farm.view`."""
        return await self._run(self._operations.view(job_id))

    async def jobs(self, limit: int = 50) -> list[JobView]:
        """See `Farm.jobs`."""
        return await self._run(self._operations.jobs(limit))

    async def find(self, text: str) -> str:
        """See `Farm.find`."""
        return await self._run(self._operations.find(text))

    async def now(self) -> float:
        """See `Farm.now`."""
        return await self._run(self._operations.now())

    async def check(self) -> None:
        """See `Farm.check`."""
        self._operations.check()

    @property
    def _operations(self) -> Operations:
        return self._there[0]

    @property
    def _there(self) -> tuple[Operations, redis.asyncio.Redis]:
        if self._connected is None:
            raise RuntimeError("the farm is not connected; use it inside `async with AsyncFarm() as farm`")
        return self._connected

    async def _run(self, exchange: Exchange[T]) -> T:
        return await run_async(self._there[1], exchange)

    def _stream(self, exchange: Exchange[None]) -> AsyncGenerator[Any]:
        return stream_async(self._there[1], exchange)


class AsyncRender:
    """One job of a farm; see `Render`. Properties there that ask the broker are methods here."""

    def __init__(self, farm: AsyncFarm, job_id: str) -> None:
        self.farm = farm
        self.id = job_id

    def __repr__(self) -> str:
        return f"<AsyncRender {self.id}>"

    async def view(self) -> JobView:
        """See `Render.view`."""
        return await self.farm.view(self.id)

    async def status(self) -> Status:
        """See `Render.status`."""
        return (await self.view()).status

    async def snapshot(self) -> Snapshot:
        """See `Render.snapshot`."""
        return (await self.view()).snapshot

    def updates(self) -> AsyncGenerator[Update]:
        """See `Render.updates`."""
        return self.farm.watch(self.id)

    async def events(self) -> AsyncGenerator[Event]:
        """See `Render.events`."""
        async with contextlib.aclosing(self.updates()) as updates:
            async for update in updates:
                if update.event is not None:
                    yield update.event

    async def wait(self, timeout: float | None = None) -> Self:
        """See `Render.wait`. If the wait is cancelled, the job continues."""
        status: Status | None = None
        try:
            async with asyncio.timeout(timeout), contextlib.aclosing(self.updates()) as updates:
                async for update in updates:
                    status = update.view.status
        except TimeoutError:
            raise not_ended(self.id, timeout, status) from None
        return await self.check()

    async def check(self) -> Self:
        """See `Render.check`."""
        check_done(await self.view())
        return self

    async def download(self, target: str | Path | None = None) -> Path:
        """See `Render.download`."""
        path = await asyncio.to_thread(video_path, Path(target or "."), self.id)
        await self.farm.download(self.id, path)
        return path

    async def poster(self) -> bytes | None:
        """See `Render.poster`."""
        return await self.farm.poster(self.id)

    async def why_waiting(self) -> str:
        """See `Render.why_waiting`."""
        return await self.farm.why_waiting(self.id)

    async def preview(self) -> bytes | None:
        """See `Render.preview`."""
        return await self.farm.preview(self.id)

    async def cancel(self) -> Status:
        """See `Render.cancel`."""
        return await self.farm.cancel(self.id)

    async def pause(self) -> Status:
        """See `Render.pause`."""
        return await self.farm.pause(self.id)

    async def resume(self) -> Status:
        """See `Render.resume`."""
        return await self.farm.resume(self.id)

    async def retry(self) -> AsyncRender:
        """See `Render.retry`."""
        return AsyncRender(self.farm, (await self.farm.retry(self.id)).id)


def _enter(settings: FarmSettings | None, use: Use, variant: str, stack: contextlib.ExitStack) -> Operations:
    return enter_farm(settings or FarmSettings(), use, variant, stack)
