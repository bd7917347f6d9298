"""The worker's Celery application, and the process around it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import redis
from celery import Celery
from celery.signals import setup_logging, worker_ready
from celery.worker import state
from pydantic import SecretStr

from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.celery_settings import celery_settings, send_render
from ltx_client.shared.storage.store import Storage
from ltx_models.errors import MachineFault
from ltx_worker.attempt.render import Renderer
from ltx_worker.celery.assembly import WorkerParts, build_base, build_worker
from ltx_worker.celery.consumer import Consumer, make_worker
from ltx_worker.celery.tasks import register
from ltx_worker.celery.transport import TRANSPORT
from ltx_worker.celery.watchdog import Watchdog
from ltx_worker.engine.supervisor import ENGINE
from ltx_worker.machine.health import Health
from ltx_worker.machine.idle_unload import IdleUnload
from ltx_worker.membership.instance_lock import DRAIN_SIGNAL, RESUME_SIGNAL, InstanceLock, InstanceLockWatch
from ltx_worker.settings import WorkerSettings
from ltx_worker.threads.daemon import daemon
from ltx_worker.threads.supervision import Supervisor
from ltx_worker.threads.watched import THREADS

__all__ = ["run_worker"]

LAST_GRACE = 15.0
"""Seconds, besides those in which a render stops, that a worker has to end when it cannot go on."""

log = logging.getLogger(__name__)


class _Part(Protocol):
    """Something of a worker that runs concurrently with its renders."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End, and return then."""


def run_worker(
    settings: WorkerSettings,
    broker_url: SecretStr,
    storage: Storage,
    variant: str,
    instance_lock: InstanceLock,
    engine_module: str = ENGINE,
) -> int:
    """Serve `variant` until told to stop, as the worker that has this lock. Return the process's exit code."""
    outlives_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # under nohup; Celery forgets
    base = build_base(settings, broker_url, storage, variant, engine_module)
    app = _celery_app(settings, base.broker)
    parts = build_worker(base, functools.partial(send_render, app))
    renderer = parts.attempts.renderer
    register(app, renderer)
    setup_logging.connect(_keep_logging, weak=False)
    end = functools.partial(_end, renderer, instance_lock, settings.worker_stop_grace + LAST_GRACE)
    collapsed = functools.partial(end, "the loop that takes messages has ended")
    worker = make_worker(app, collapsed, **_worker_options(parts))
    consumer = Consumer(worker)
    parts.machine.health.control(consumer)
    THREADS.on_error = base.metrics.thread_failed
    concurrent = _concurrent_parts(parts, consumer, instance_lock, end)

    def on_ready(**_: object) -> None:
        _handle_signals(renderer, parts.machine.health, instance_lock, outlives_terminal=outlives_terminal)
        _start(parts, concurrent, consumer)

    worker_ready.connect(on_ready, weak=False)
    with _until_left(parts, concurrent):
        _look_at_machine(parts)
        worker.start()
    return int(state.should_stop or worker.exitcode or 0)


def _worker_options(parts: WorkerParts) -> dict[str, Any]:
    return {
        "hostname": f"{parts.machine.heartbeat.worker_id}@ltx-farm",
        "queues": parts.base.queues,
        "pool": "threads",
        "concurrency": 1,
        "prefetch_multiplier": 1,
        "without_gossip": True,
        "without_mingle": True,
        "without_heartbeat": True,
        "quiet": True,
    }


def _concurrent_parts(
    parts: WorkerParts, consumer: Consumer, instance_lock: InstanceLock, end: Callable[[str], object]
) -> Sequence[_Part]:
    """Return what runs concurrently with renders, in the order in which it is started."""
    settings, attempts = parts.base.settings, parts.attempts
    return (
        Supervisor(end, unready_after=settings.worker_unready_after, end_after=settings.worker_end_after),
        InstanceLockWatch(instance_lock, end),
        parts.machine.heartbeat,
        attempts.finisher,
        IdleUnload(parts.base.engine, settings.worker_free_after),
        attempts.leases,
        attempts.embeddings,
        attempts.spool,
        parts.files,
        parts.queue.reaper,
        parts.queue.orphans,
        parts.machine.health,
        Watchdog(
            parts.base.client,
            parts.base.queue_keys,
            taken=consumer.taken,
            rebuild=consumer.rebuild,
            give_up=lambda: os._exit(os.EX_TEMPFAIL),  # whatever holds the main thread; the engine ends with its pipe
            limit=settings.worker_idle_limit,
        ),
    )


def _start(parts: WorkerParts, concurrent: Sequence[_Part], consumer: Consumer) -> None:
    """Start what runs concurrently, once Celery takes messages."""
    settings, heartbeat = parts.base.settings, parts.machine.heartbeat
    for part in concurrent:
        part.start()
    consumer.watch(THREADS)
    heartbeat.add_note(parts.files.why_not)
    heartbeat.add_note(parts.base.metrics.serve(settings.worker_metrics_address, settings.worker_metrics_port))
    log.info("%s serves %s", settings.worker_name, ", ".join(parts.base.queues))


@contextlib.contextmanager
def _until_left(parts: WorkerParts, concurrent: Sequence[_Part]) -> Iterator[None]:
    """On leaving, stop all: first what attempts need to end, last the worker's place in the farm's list."""
    with contextlib.ExitStack() as ending:
        ending.callback(parts.machine.heartbeat.leave)
        ending.callback(parts.base.engine.close)
        for part in concurrent:
            ending.callback(part.stop)
        ending.callback(parts.base.metrics.stop)
        ending.callback(parts.attempts.finisher.stop)
        yield


def _look_at_machine(parts: WorkerParts) -> None:
    """Note what is wrong with this machine before it takes a job; what waits in the spool is delivered meanwhile."""
    health = parts.machine.health
    if full := parts.machine.probes.disks():
        health.note_fault(full)
    try:
        parts.base.engine.warm_up()
    except MachineFault as fault:
        health.note_fault(fault)
    with contextlib.suppress(redis.RedisError):  # else with a heartbeat
        parts.machine.heartbeat.compare_storage()


def _end(renderer: Renderer, instance_lock: InstanceLock, within: float, why: str) -> None:
    """Give the job back, and end for whoever supervises the process; by force, should that hang for so long."""
    log.critical("this worker ends, to be started again: %s", why)
    instance_lock.note_ending()
    renderer.leave()
    if state.should_stop is None:
        state.should_stop = os.EX_TEMPFAIL
    daemon(lambda: _exit_after(within), "deadline").start()


def _exit_after(seconds: float) -> None:
    """End the process by force, if it has not ended by then."""
    time.sleep(seconds)
    os._exit(os.EX_TEMPFAIL)


def _keep_logging(**_: object) -> None:
    """Keep Celery from setting up logging again, as any receiver of this signal does."""


def _handle_signals(
    renderer: Renderer, health: Health, instance_lock: InstanceLock, *, outlives_terminal: bool
) -> None:
    """Replace Celery's own signal handlers.

    Its cold shutdown loses the running job, or hangs until that ends. At SIGHUP, which comes when a terminal is closed,
    it would restart itself.
    """

    def leave(*_: object) -> None:
        instance_lock.note_ending()
        renderer.leave()
        state.should_stop = os.EX_OK

    def drain(*_: object) -> None:
        instance_lock.note_ending()
        state.should_stop = os.EX_OK

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if outlives_terminal else leave)
    signal.signal(DRAIN_SIGNAL, drain)
    signal.signal(RESUME_SIGNAL, lambda *_: health.resume())


def _celery_app(settings: WorkerSettings, broker: Broker) -> Celery:
    app = Celery("ltx_worker", set_as_current=False)
    app.conf.update(celery_settings(broker, settings.names))
    app.conf.broker_transport = TRANSPORT
    app.conf.broker_transport_options["dead_list"] = settings.names.dead()
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,  # after an error reply as after a lost connection
        task_acks_late=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # by which whoever can publish to one channel could shut all workers down
    )
    return app
