"""kombu's Redis transport, for a worker that meets anything in its queues and lives.

What lies in a queue is checked against all that a client of ours would write, before anything of kombu or Celery
looks at it: of some items these would die, and others they would try again for ever.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Annotated, Any, Literal

import redis
from celery.app.task import Context
from kombu.transport import redis as kombu_redis
from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ltx_client.protocol.clock import CLOCK
from ltx_client.protocol.jobs import JobId
from ltx_client.protocol.validation import first_error
from ltx_client.shared.celery import kombu_transport
from ltx_client.shared.unexpected_data import is_wrong_type, tell_once
from ltx_worker.threads.watched import THREADS, brief

__all__ = ["TRANSPORT", "Transport"]

log = logging.getLogger(__name__)

MAX_ITEM_BYTES = 64 * 1024
"""A message of ours has about 1 kB: it names a job, and all else is in the job's record."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds until a worker asks for work again, after the broker has refused that."""
CHECK_EVERY = 30.0
"""Seconds until a damaged list is tried again."""
KEPT_ITEMS = 100
KEPT_CHARACTERS = 500
"""How many refused items are kept, and how much of each."""


class _DeliveryInfo(BaseModel):
    """Where it is put when it is given back: into a list of that name, and so into no other kind of key."""

    exchange: Literal[""]
    routing_key: Annotated[str, Field(pattern=r"^[0-9a-zA-Z._-]{1,80}\.[0-9]{1,4}(\+[0-9]{1,4})?$")]


class _Properties(BaseModel):
    delivery_tag: StrictStr
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]
    priority: Annotated[int, Field(ge=0, le=9, strict=True)] | None = None
    reply_to: StrictStr | None = None
    correlation_id: StrictStr | None = None


class _Headers(BaseModel):
    """What Celery makes of headers it makes them of the task: when it runs, for how long, and what is sent after it."""

    model_config = ConfigDict(extra="allow")

    task: Literal["render"]
    id: JobId
    shadow: None = None
    eta: None = None
    expires: None = None
    group: None = None
    group_index: None = None
    retries: Literal[0] = 0
    timelimit: tuple[None, None] | None = None
    root_id: StrictStr | None = None
    parent_id: StrictStr | None = None
    argsrepr: StrictStr | None = None
    kwargsrepr: StrictStr | None = None
    origin: StrictStr | None = None
    ignore_result: StrictBool | None = None
    replaced_task_nesting: Literal[0] = 0
    stamped_headers: None = None
    stamps: dict[str, None] | None = None
    compression: None = None

    @model_validator(mode="after")
    def _leave_the_rest_alone(self) -> _Headers:
        if taken := sorted((self.model_extra or {}).keys() & _OF_THE_TASK):
            raise ValueError(f"{taken[0]} is for Celery alone to set")
        return self


class _Item(BaseModel):
    """A message of Celery's protocol 2, as kombu puts it into a queue."""

    headers: _Headers
    properties: _Properties
    content_type: Annotated[Literal["application/json"], Field(alias="content-type")]
    content_encoding: Annotated[Literal["utf-8"], Field(alias="content-encoding")]
    body: Base64Bytes


_OF_THE_TASK = frozenset(dir(Context))
"""What a task knows of its request: Celery lets any header of such a name take its place."""

_body: TypeAdapter[Any] = TypeAdapter(tuple[tuple[JobId], dict[str, None], dict[str, None]])
"""Positional arguments, named ones, and what is to follow the task."""


def why_refused(item: bytes) -> str | None:
    """Return what is wrong with a queue's item: a sentence's end, or None for a message that has a job rendered."""
    if len(item) > MAX_ITEM_BYTES:
        return f"it has {len(item)} bytes, and a message at most {MAX_ITEM_BYTES}"
    try:
        message = _Item.model_validate_json(item)
        (job_id,), named, _ = _body.validate_json(message.body, strict=True)
    except ValidationError as error:
        return first_error(error)
    if named:
        return "body: it has named arguments, and the task has none"
    if job_id != message.headers.id:
        return "headers.id: it is not the job's"
    return None


class _Client(kombu_redis.PrefixedStrictRedis):
    """Answers a worker's wait for work as if nothing had come, where what came was refused and set aside."""

    def __init__(self, *args: Any, set_aside: Callable[[str, bytes, str], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_aside = set_aside

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)
        if command_name == "BRPOP" and reply and (reason := why_refused(reply[1])):
            self._set_aside(reply[0].decode(), reply[1], reason)
            return None
        return reply


class QoS(kombu_redis.QoS):
    """Keep track of a message in memory alone when the broker refuses to store it.

    That is enough: the ledger decides who has a job, and the reaper sends and forgets messages. An error here would end
    Celery's loop.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note that a message was delivered."""
        with self._or_in_memory(lambda: super(kombu_redis.QoS, self).append(message, delivery_tag)):
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Note that a message was seen to."""
        with self._or_in_memory(lambda: super(kombu_redis.QoS, self).ack(delivery_tag)):
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give a message back."""
        with self._or_in_memory(lambda: super(kombu_redis.QoS, self).ack(delivery_tag)):
            super().reject(delivery_tag, requeue=requeue)

    @contextlib.contextmanager
    def _or_in_memory(self, instead: Callable[[], object]) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            THREADS.note(error)
            instead()

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Give messages back that were delivered long ago."""
        try:
            super().restore_visible(start, num, interval)
        except redis.RedisError as error:
            THREADS.note(error)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give one back. What is no message is taken away: it would keep the others from being given back."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except redis.RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is in it
            log.error("a delivered item %r was dropped, for it is no message: %s", tag, brief(error))
            self._remove_from_indices(tag).execute()


class Channel(kombu_transport.Channel):
    """dead_list: the key of the Redis list, newest first, that keeps the last KEPT_ITEMS refused items, as JSON.

    An error reply to the wait for work has it ask again a little later; a queue's key that is no list is left out.
    """

    QoS = QoS
    dead_list: str
    _shared: Any = None
    _brpop_sent_at: Any = None
    _damaged: frozenset[str] = frozenset()
    _pause = 0.0
    _ask_at = 0.0
    _check_at = 0.0
    from_transport_options: Any = (*kombu_transport.Channel.from_transport_options, "dead_list")

    def _get_client(self) -> Callable[..., redis.Redis]:
        super()._get_client()  # which checks the version of redis-py
        return functools.partial(_Client, global_keyprefix=self.global_keyprefix, set_aside=self._set_aside)

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Share one pool: kombu makes a client for each acknowledgement, which takes as long as sending it."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._shared is None or self._shared.connection_pool is not self.pool:
            self._shared = super()._create_client()
        return self._shared

    def _set_aside(self, queue: str, item: bytes, reason: str) -> None:
        log.error("an item of queue %s was set aside in %s: %s", queue.split(self.sep)[0], self.dead_list, reason)
        entry = {
            "at": CLOCK.now(),
            "queue": queue,
            "reason": reason,
            "size": len(item),
            "item": item[:KEPT_CHARACTERS].decode(errors="backslashreplace"),
        }
        try:
            with redis.Redis(connection_pool=self.pool).pipeline() as pipeline:
                pipeline.lpush(self.dead_list, json.dumps(entry))
                pipeline.ltrim(self.dead_list, 0, KEPT_ITEMS - 1)
                pipeline.execute()
        except redis.RedisError as error:
            THREADS.note(error)

    def _queue_bind(self, *binding: Any) -> None:
        """Note which queues there are, which nothing of the farm's reads."""
        try:
            super()._queue_bind(*binding)
        except redis.ResponseError as error:
            THREADS.note(error)

    def _size(self, _queue: str) -> int:
        """Count nothing: nobody asks how long a queue is when it is declared, and one of its keys may be damaged."""
        return 0

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Do as kombu does, without the keys that hold no list."""
        now = time.monotonic()
        if now < self._ask_at:
            return
        if now >= self._check_at:
            self._damaged = frozenset()
        if not self._damaged:
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        keys = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        keys = [key for key in keys if key not in self._damaged]
        if not keys:
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = now
        command = ["BRPOP", *keys, (self.brpop_timeout if timeout is None else timeout) or 0]
        self.client.connection.send_command(*self.client._prefix_args(command))

    def _brpop_read(self, **options: Any) -> Any:
        try:
            delivered = super()._brpop_read(**options)
        except Empty:
            self._answered()
            raise
        except redis.ResponseError as error:
            self._refused(error)
            raise Empty from error
        except self.connection_errors:
            raise
        except Exception as error:
            THREADS.note(error)
            raise ConnectionResetError("a message could not be taken; connecting anew") from error
        self._answered()
        return delivered

    def _answered(self) -> None:
        self._pause = 0.0
        THREADS.beat()

    def _refused(self, error: redis.ResponseError) -> None:
        """Ask again later, without the lists that are none."""
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or FIRST_PAUSE)
        self._ask_at = time.monotonic() + self._pause
        if not is_wrong_type(error):
            THREADS.fail(error)
            return
        THREADS.note(error)
        keys = [self._q_for_pri(queue, priority) for queue in self.active_queues for priority in self.priority_steps]
        with contextlib.suppress(redis.RedisError), self.conn_or_acquire() as client:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.llen(key)
            lengths = pipeline.execute(raise_on_error=False)
            self._damaged = frozenset(key for key, length in zip(keys, lengths, strict=True) if is_wrong_type(length))
            self._check_at = time.monotonic() + CHECK_EVERY
            for key in self._damaged:
                tell_once(f"the key {self.global_keyprefix}{key} is set aside: it is no list of messages")


class Transport(kombu_transport.Transport):
    """The farm's own, which takes the transport option `dead_list`, too."""

    Channel = Channel


TRANSPORT = f"{__name__}:{Transport.__name__}"
"""What Celery knows it by."""
