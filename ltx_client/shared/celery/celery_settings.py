"""Define the Celery settings that clients and workers must share to use the same queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ltx_client.protocol.jobs import RENDER_TASK
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.client import LIMITS, Purpose

if TYPE_CHECKING:
    from celery import Celery

    from ltx_client.shared.broker.url import Broker

__all__ = ["PRIORITY_STEPS", "Addressed", "celery_settings", "queue_keys", "send_render", "unacked_keys"]

PRIORITY_STEPS = list(range(10))
"""The priorities of messages; on Redis, 0 is first."""
PRIORITY_SEPARATOR = "\x06\x16"
"""kombu's own separator of a queue's name and the priority, in the key of each of its lists."""

VISIBILITY_TIMEOUT = 24 * 3600
"""Seconds after which Redis delivers an unacknowledged message again.

It counts from delivery, so it must outlast any render. The ledger's leases decide who owns a job, long before that.
"""


class Addressed(Protocol):
    """What a message needs of a job."""

    @property
    def id(self) -> str:
        """Return the job's id."""

    @property
    def queue(self) -> str:
        """Return the queue that it waits in."""


def celery_settings(broker: Broker, names: Names) -> dict[str, Any]:
    """Return the settings for `Celery.conf.update`, the same on both sides."""
    return {
        "broker_url": "redis://",  # kombu requires one; the transport uses its option instead
        "broker_transport": "ltx_client.shared.celery.kombu_transport:Transport",
        "broker_transport_options": {
            "broker": broker,
            "global_keyprefix": names.namespace,
            "priority_steps": PRIORITY_STEPS,
            "sep": PRIORITY_SEPARATOR,
            "visibility_timeout": VISIBILITY_TIMEOUT,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "health_check_interval": LIMITS[Purpose.CELERY].check_every,  # kombu's loop uses it too
        },
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "worker_hijack_root_logger": False,
        "enable_utc": True,
    }


def send_render(app: Celery, job: Addressed, priority: int, *, producer: Any = None) -> None:
    """Send the message that makes a worker take a job: this one, or one whose turn comes sooner.

    Args:
        app: The Celery app.
        job: The job.
        priority: The message's priority.
        producer: kombu's producer, if there is one already.

    Raises:
        kombu.exceptions.OperationalError: The broker did not answer.
    """
    app.send_task(
        RENDER_TASK, args=[job.id], task_id=job.id, queue=job.queue, priority=priority, retry=False, producer=producer
    )


def queue_keys(names: Names, queue: str) -> list[str]:
    """Return the Redis lists of a Celery queue, the most urgent first."""
    first = names.namespace + queue
    return [first, *(f"{first}{PRIORITY_SEPARATOR}{priority}" for priority in PRIORITY_STEPS[1:])]


def unacked_keys(names: Names) -> tuple[str, str]:
    """Return kombu's own keys: the hash of unacknowledged messages, and the index of their times."""
    return f"{names.namespace}unacked", f"{names.namespace}unacked_index"
