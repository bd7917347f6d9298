"""The worker's Celery application, and the process around it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
import time

import redis
from celery import Celery
from celery.signals import setup_logging, worker_ready
from celery.worker import state
from pydantic import SecretStr

from ltx_client.protocol.clock import CLOCK
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import queue_name
from ltx_client.shared.broker.client import Purpose, make_client
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.celery_settings import celery_settings, queue_keys, send_render
from ltx_client.shared.live_workers import live_workers
from ltx_client.shared.storage.store import Storage
from ltx_models.errors import MachineFault
from ltx_models.memory import GB
from ltx_worker.attempt.delivery import Spool
from ltx_worker.attempt.finish import Finisher
from ltx_worker.attempt.lease import Leases
from ltx_worker.attempt.outcomes import Endings
from ltx_worker.attempt.render import Renderer
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.work_folders import WorkFolders
from ltx_worker.celery.consumer import Consumer, make_worker
from ltx_worker.celery.tasks import register
from ltx_worker.celery.transport import TRANSPORT
from ltx_worker.celery.watchdog import Watchdog
from ltx_worker.engine.supervisor import ENGINE
from ltx_worker.http.files import FileServer
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache, EmbeddingsLimit
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.machine.duty_hours import OffDuty
from ltx_worker.machine.health import Health
from ltx_worker.machine.home import SPOOL, WORK
from ltx_worker.machine.idle_unload import Thrift
from ltx_worker.machine.probes import Probes
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.membership.instance_lock import DRAIN_SIGNAL, RESUME_SIGNAL, Presence, PresenceWatch
from ltx_worker.observe.counted import MeteredEngine, MeteredLedger
from ltx_worker.observe.metrics import Metrics
from ltx_worker.queue.claiming import TurnTaker
from ltx_worker.queue.orphans import Orphans
from ltx_worker.queue.reaper import Reaper
from ltx_worker.settings import WorkerSettings, machine_id
from ltx_worker.threads.daemon import daemon
from ltx_worker.threads.supervision import Supervisor
from ltx_worker.threads.watched import THREADS

__all__ = ["run_worker"]

LAST_GRACE = 15.0
"""Seconds, besides those in which a render stops, that a worker has to end when it cannot go on."""

log = logging.getLogger(__name__)


def run_worker(
    settings: WorkerSettings,
    broker_url: SecretStr,
    storage: Storage,
    variant: str,
    presence: Presence,
    engine_module: str = ENGINE,
) -> int:
    """Serves `variant` until told to stop, as the worker whose presence that is. Returns the process's exit code."""
    outlives_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # under nohup; Celery forgets
    broker = Broker.parse(broker_url.get_secret_value())
    client = make_client(broker, Purpose.WORKER)
    with contextlib.suppress(redis.RedisError):  # else with the first heartbeat
        CLOCK.measure(client)
    metrics = Metrics(variant)
    engine = MeteredEngine(
        metrics,
        variant,
        stop_grace=settings.worker_stop_grace,
        stall_limit=settings.worker_stall_limit,
        module=engine_module,
    )
    ledger = MeteredLedger(metrics, client, settings.names, settings.worker_lease)
    off_duty = OffDuty(battery=settings.worker_on_battery, unused_for=settings.worker_unused_for, hours=settings.hours)
    work = WorkFolders(settings.home / WORK)
    leaving = threading.Event()

    def is_to_leave() -> bool:
        THREADS.live()  # a probe that loads a model takes long
        return leaving.is_set()

    folders = [settings.home, work.path, settings.home / SPOOL]
    probes = Probes(folders, storage, engine, is_to_leave, lambda: heartbeat.see_storage())
    health = Health(
        machine_id(settings),
        ledger.read,
        lambda job: _others_serve(client, settings, ledger, heartbeat.worker_id, job),
        hand_on=settings.worker_hand_on,
        why_off_duty=off_duty.why,
        probe=probes.thorough,
        note=metrics.machine_failed,
    )
    heartbeat = Heartbeat(settings, client, variant, health, storage.known_id)
    points = ResumePoints(ledger, storage, work.path, settings.worker_resume_in_redis)
    files = FileServer(
        storage,
        settings.home,
        address=settings.worker_files_address,
        port=settings.worker_files_port,
        url=settings.files_url,
    )
    spool = Spool(
        settings.home / SPOOL,
        storage,
        ledger,
        points,
        retry_for=settings.worker_deliver_for,
        look_every=settings.worker_renew_every,
        sign_for=settings.worker_sign_for,
        own_link=files.link,
    )
    thrift = Thrift(engine, settings.worker_free_after)
    leases = Leases(client, settings.names, ledger, settings.worker_renew_every)
    queues = [key for queue in _queues(settings, variant) for key in queue_keys(settings.names, queue)]
    hasty = make_client(broker, Purpose.WORKER_ASIDE)
    embeddings = EmbeddingsCache(hasty, settings.names, settings.worker_embeds_ttl)
    app = _celery_app(settings, broker)
    send = functools.partial(send_render, app)
    endings = Endings(ledger, points, health, heartbeat, leaving, probes.quick)
    finisher = Finisher(endings, engine, spool, heartbeat, health, send, stop_grace=settings.worker_stop_grace)
    budget_gb, gpu_gb = settings.worker_memory_gb, settings.gpu_gb
    turn_taker = TurnTaker(ledger, heartbeat, health, send, leaving, budget_gb=budget_gb, gpu_gb=gpu_gb)
    renderer = Renderer(
        settings,
        ledger,
        leases,
        engine,
        storage,
        finisher,
        endings,
        points,
        embeddings if settings.worker_embeds_bytes else None,
        heartbeat,
        health,
        turn_taker,
        work,
        functools.partial(_are_any, hasty, queues),
        probes.folders,
    )
    metrics.watch(
        hasty,
        settings.names,
        heartbeat,
        budget=settings.worker_memory_gb * GB,
        waiting=spool.waiting,
    )
    register(app, renderer)
    reaper = Reaper(
        client,
        settings.names,
        ledger,
        send,
        EmbeddingsLimit(client, settings.names, settings.worker_embeds_ttl, settings.worker_embeds_bytes),
        holder=heartbeat.run,  # two machines may have one id, for a while
        every=settings.worker_reap_every,
        lease=settings.worker_lease,
    )

    orphans = Orphans(storage, ledger, lambda: reaper.is_chosen, every=settings.worker_sweep_every, tidy=work.tidy)

    def on_ready(**_: object) -> None:
        _handle_signals(renderer, health, presence, outlives_terminal=outlives_terminal)
        for part in beside:
            part.start()
        consumer.watch(THREADS)
        heartbeat.add_note(files.why_not)
        heartbeat.add_note(metrics.serve(settings.worker_metrics_address, settings.worker_metrics_port))
        log.info(
            "%s serves %s",
            settings.worker_name,
            ", ".join(queue_name(variant, size) for size in settings.memory_classes),
        )

    setup_logging.connect(_keep_logging, weak=False)
    worker_ready.connect(on_ready, weak=False)

    def end(why: str) -> None:
        """Give the job back, and end for whoever supervises the process; by force, should that hang."""
        log.critical("this worker ends, to be started again: %s", why)
        presence.note_ending()
        renderer.leave()
        if state.should_stop is None:
            state.should_stop = os.EX_TEMPFAIL
        daemon(lambda: _exit_after(settings.worker_stop_grace + LAST_GRACE), "deadline").start()

    worker = make_worker(
        app,
        functools.partial(end, "the loop that takes messages has ended"),
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
    consumer = Consumer(worker)
    watchdog = Watchdog(
        client,
        queues,
        taken=consumer.taken,
        rebuild=consumer.rebuild,
        give_up=lambda: os._exit(os.EX_TEMPFAIL),  # whatever holds the main thread; the engine ends with its pipe
        limit=settings.worker_idle_limit,
    )
    health.control(consumer)
    supervisor = Supervisor(end, unready_after=settings.worker_unready_after, end_after=settings.worker_end_after)
    THREADS.on_error = metrics.thread_failed
    beside = (
        supervisor,
        PresenceWatch(presence, end),
        heartbeat,
        finisher,
        thrift,
        leases,
        embeddings,
        spool,
        files,
        reaper,
        orphans,
        health,
        watchdog,
    )
    with contextlib.ExitStack() as ending:
        ending.callback(heartbeat.leave)
        ending.callback(engine.close)
        for part in beside:
            ending.callback(part.stop)
        ending.callback(metrics.stop)
        ending.callback(finisher.stop)
        if full := probes.disks():
            health.note_fault(full)  # what waits in the spool, and may fill the disk, is delivered meanwhile
        try:
            engine.warm_up()
        except MachineFault as fault:
            health.note_fault(fault)
        with contextlib.suppress(redis.RedisError):  # else with a heartbeat
            heartbeat.compare_storage()
        worker.start()
    return int(state.should_stop or worker.exitcode or 0)


def _exit_after(seconds: float) -> None:
    """End the process by force, if it has not ended by then."""
    time.sleep(seconds)
    os._exit(os.EX_TEMPFAIL)


def _keep_logging(**_: object) -> None:
    """Logging is set up already: a receiver of this signal keeps Celery from doing it again."""


def _are_any(client: redis.Redis, queues: list[str]) -> bool:
    """Whether any of these lists holds something; not while Redis is away."""
    try:
        return bool(client.exists(*queues))
    except redis.RedisError:
        return False


def _others_serve(client: redis.Redis, settings: WorkerSettings, ledger: Ledger, own: str, job: Job) -> bool:
    links = ledger.links(job.id)
    return any(
        worker.serves(job) and own != worker.id and not links.excludes(worker.id, worker.name)
        for worker in live_workers(client, settings.names)
    )


def _handle_signals(renderer: Renderer, health: Health, presence: Presence, *, outlives_terminal: bool) -> None:
    """In place of Celery's own handlers: its cold shutdown loses the job in hand, or hangs until it ends. At SIGHUP,
    which comes when a terminal is closed, it would start itself anew.
    """

    def leave(*_: object) -> None:
        presence.note_ending()
        renderer.leave()
        state.should_stop = os.EX_OK

    def drain(*_: object) -> None:
        presence.note_ending()
        state.should_stop = os.EX_OK

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if outlives_terminal else leave)
    signal.signal(DRAIN_SIGNAL, drain)
    signal.signal(RESUME_SIGNAL, lambda *_: health.resume())


def _queues(settings: WorkerSettings, variant: str) -> list[str]:
    return [queue_name(variant, size) for size in settings.memory_classes]


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
