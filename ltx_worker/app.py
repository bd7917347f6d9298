"""The worker's Celery application, and the process around it."""

from __future__ import annotations

import functools
import logging
import os
import signal

import redis
from celery import Celery
from celery.signals import setup_logging, worker_ready
from celery.worker import state
from pydantic import SecretStr
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from ltx_client.protocol.names import queue_name
from ltx_client.protocol.storage import Storage
from ltx_client.protocol.transport import celery_settings, send_render
from ltx_worker.delivery import Spool
from ltx_worker.engine.supervisor import Engine
from ltx_worker.heartbeat import Heartbeat
from ltx_worker.ledger import Ledger
from ltx_worker.presence import DRAIN_SIGNAL
from ltx_worker.reaper import Reaper
from ltx_worker.render import Renderer
from ltx_worker.settings import WorkerSettings
from ltx_worker.tasks import register

__all__ = ["run_worker"]

log = logging.getLogger(__name__)

RETRIES = 3
"""How often a command is sent again at once; who must not give up waits longer (`ltx_worker.patience`)."""


def run_worker(settings: WorkerSettings, broker_url: SecretStr, storage: Storage, variant: str) -> int:
    """Serves `variant` until told to stop. Returns the process's exit code."""
    client = _connect(broker_url)
    engine = Engine(variant, stop_grace=settings.worker_stop_grace, stall_limit=settings.worker_stall_limit)
    heartbeat = Heartbeat(settings, client, variant)
    ledger = Ledger(client, settings.names, settings.worker_lease)
    spool = Spool(
        settings.home / "spool",
        storage,
        ledger,
        retry_for=settings.worker_deliver_for,
        look_every=settings.worker_renew_every,
    )
    renderer = Renderer(settings, client, ledger, engine, storage, spool, heartbeat)
    app = _celery_app(settings, broker_url)
    register(app, renderer)
    reaper = Reaper(
        client,
        settings.names,
        ledger,
        functools.partial(send_render, app),
        worker_id=heartbeat.worker_id,
        every=settings.worker_reap_every,
        lease=settings.worker_lease,
    )

    def on_ready(**_: object) -> None:
        _handle_signals(renderer)
        heartbeat.start()
        reaper.start()
        spool.start()
        log.info("%s serves %s", settings.worker_name, ", ".join(_queues(settings, variant)))

    setup_logging.connect(_keep_logging, weak=False)
    worker_ready.connect(on_ready, weak=False)
    worker = app.Worker(
        hostname=f"{heartbeat.worker_id}@ltx-farm",
        queues=_queues(settings, variant),
        pool="threads",
        concurrency=1,
        prefetch_multiplier=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    engine.warm_up()
    try:
        worker.start()
    finally:
        reaper.stop()
        spool.stop()
        engine.close()
        heartbeat.stop()
    return int(worker.exitcode or 0)


def _keep_logging(**_: object) -> None:
    """Logging is set up already: a receiver of this signal keeps Celery from doing it again."""


def _handle_signals(renderer: Renderer) -> None:
    """In place of Celery's own handlers, whose cold shutdown loses the job in hand, or hangs until it ends."""

    def leave(*_: object) -> None:
        renderer.leave()
        state.should_stop = os.EX_OK

    def drain(*_: object) -> None:
        state.should_stop = os.EX_OK

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, leave)
    signal.signal(DRAIN_SIGNAL, drain)


def _queues(settings: WorkerSettings, variant: str) -> list[str]:
    return [queue_name(variant, size) for size in settings.memory_classes]


def _connect(broker_url: SecretStr) -> redis.Redis:
    return redis.Redis.from_url(
        broker_url.get_secret_value(),
        socket_connect_timeout=3,
        socket_timeout=10,
        socket_keepalive=True,
        health_check_interval=10,
        retry=Retry(ExponentialBackoff(cap=1, base=0.1), RETRIES),
    )


def _celery_app(settings: WorkerSettings, broker_url: SecretStr) -> Celery:
    app = Celery("ltx_worker", set_as_current=False)
    app.conf.update(
        **celery_settings(broker_url.get_secret_value(), settings.names),
        broker_connection_retry_on_startup=True,
        task_acks_late=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
    )
    return app
