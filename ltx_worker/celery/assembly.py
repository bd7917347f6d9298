"""Builds a worker from its parts, group by group. Nothing here knows Celery: what sends messages is passed in."""

from __future__ import annotations

import contextlib
import functools
import threading
from dataclasses import dataclass, field

import redis
from pydantic import SecretStr

from ltx_client.protocol.clock import CLOCK
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import queue_name
from ltx_client.protocol.versions.features import highest_level, levels
from ltx_client.shared.broker.client import Purpose, make_client
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.celery_settings import queue_keys
from ltx_client.shared.live_workers import live_workers
from ltx_client.shared.storage.store import Storage
from ltx_models.memory import GB
from ltx_worker.attempt.attempt import WorkerContext
from ltx_worker.attempt.delivery import Spool
from ltx_worker.attempt.finish import Finisher
from ltx_worker.attempt.lease import Leases
from ltx_worker.attempt.outcomes import Outcomes
from ltx_worker.attempt.render import Renderer
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.work_folders import WorkFolders
from ltx_worker.engine.supervisor import Engine
from ltx_worker.http.files import FileServer
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache, EmbeddingsLimit
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.machine.duty_hours import DutyHours
from ltx_worker.machine.health import Health
from ltx_worker.machine.home import SPOOL, WORK
from ltx_worker.machine.probes import Probes
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.observe.counted import CountedAttempts
from ltx_worker.observe.metrics import Metrics
from ltx_worker.queue.claiming import TurnTaker
from ltx_worker.queue.fair_turns import SendRender
from ltx_worker.queue.orphans import Orphans
from ltx_worker.queue.reaper import Reaper
from ltx_worker.settings import WorkerSettings, machine_id
from ltx_worker.threads.watched import THREADS

__all__ = ["Base", "WorkerParts", "build_base", "build_worker"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all parts of a worker stand on.

    Attributes:
        client: The broker's client, which waits.
        hasty: The same for what is not worth waiting for.
        leaving: Set when the worker ends.
    """

    settings: WorkerSettings
    variant: str
    storage: Storage
    broker: Broker
    client: redis.Redis
    hasty: redis.Redis
    metrics: Metrics
    engine: Engine
    ledger: Ledger
    work: WorkFolders
    leaving: threading.Event = field(default_factory=threading.Event)

    @property
    def queues(self) -> list[str]:
        """The names of the queues that the worker takes messages from."""
        return [queue_name(self.variant, size, level) for level in levels() for size in self.settings.memory_classes]

    @property
    def queue_keys(self) -> list[str]:
        """The broker's keys of those queues."""
        return [key for queue in self.queues for key in queue_keys(self.settings.names, queue)]


@dataclass(frozen=True, kw_only=True)
class MachineParts:
    """What knows whether this machine takes jobs, and tells the farm."""

    probes: Probes
    health: Health
    heartbeat: Heartbeat


@dataclass(frozen=True, kw_only=True)
class AttemptParts:
    """What takes attempts through their lives."""

    renderer: Renderer
    finisher: Finisher
    spool: Spool
    leases: Leases
    embeddings: EmbeddingsCache


@dataclass(frozen=True, kw_only=True)
class QueueParts:
    """What looks after the farm's queue, on the worker that is chosen for it."""

    reaper: Reaper
    orphans: Orphans


@dataclass(frozen=True, kw_only=True)
class WorkerParts:
    """A worker but for Celery."""

    base: Base
    machine: MachineParts
    files: FileServer
    attempts: AttemptParts
    queue: QueueParts


def build_base(
    settings: WorkerSettings, broker_url: SecretStr, storage: Storage, variant: str, engine_module: str
) -> Base:
    """Return what a worker's parts stand on. The clock is measured, if the broker is there."""
    broker = Broker.parse(broker_url.get_secret_value())
    client = make_client(broker, Purpose.WORKER)
    with contextlib.suppress(redis.RedisError):  # else with the first heartbeat
        CLOCK.measure(client)
    return Base(
        settings=settings,
        variant=variant,
        storage=storage,
        broker=broker,
        client=client,
        hasty=make_client(broker, Purpose.WORKER_ASIDE),
        metrics=Metrics(variant),
        engine=Engine(
            variant,
            stop_grace=settings.worker_stop_grace,
            stall_limit=settings.worker_stall_limit,
            module=engine_module,
        ),
        ledger=Ledger(client, settings.names, settings.worker_lease),
        work=WorkFolders(settings.home / WORK),
    )


def build_worker(base: Base, send: SendRender) -> WorkerParts:
    """Return a worker but for Celery. send: puts a message for a job into its queue."""
    machine = _build_machine(base)
    files = _build_files(base)
    attempts = _build_attempts(base, machine, files, send)
    base.metrics.watch(
        base.hasty,
        base.settings.names,
        machine.heartbeat,
        budget=base.settings.worker_memory_gb * GB,
        waiting=attempts.spool.waiting,
    )
    queue = _build_queue(base, machine, send)
    return WorkerParts(base=base, machine=machine, files=files, attempts=attempts, queue=queue)


def _build_machine(base: Base) -> MachineParts:
    """Return what knows this machine: its probes and its heartbeat know each other, through its health."""
    settings = base.settings

    def is_to_leave() -> bool:
        THREADS.live()  # a probe that loads a model takes long
        return base.leaving.is_set()

    folders = [settings.home, base.work.path, settings.home / SPOOL]
    probes = Probes(folders, base.storage, base.engine, is_to_leave, lambda: heartbeat.check_storage())
    duty_hours = DutyHours(
        battery=settings.worker_on_battery, unused_for=settings.worker_unused_for, hours=settings.hours
    )
    health = Health(
        machine_id(settings),
        base.ledger.read,
        lambda job: _others_serve(base, heartbeat.worker_id, job),
        hand_on=settings.worker_hand_on,
        why_off_duty=duty_hours.why,
        probe=probes.thorough,
        note=base.metrics.machine_failed,
    )
    heartbeat = Heartbeat(settings, base.client, base.variant, health, base.storage.known_id)
    return MachineParts(probes=probes, health=health, heartbeat=heartbeat)


def _build_files(base: Base) -> FileServer:
    """Return the server of finished videos."""
    settings = base.settings
    return FileServer(
        base.storage,
        settings.home,
        address=settings.worker_files_address,
        port=settings.worker_files_port,
        url=settings.files_url,
    )


def _build_attempts(base: Base, machine: MachineParts, files: FileServer, send: SendRender) -> AttemptParts:
    """Return what takes attempts through their lives."""
    settings = base.settings
    embeddings = EmbeddingsCache(base.hasty, settings.names, settings.worker_embeds_ttl)
    leases = Leases(base.client, settings.names, base.ledger, settings.worker_renew_every)
    context = _context(base, machine)
    spool = _spool(context, settings, files)
    outcomes = Outcomes(context, machine.probes.quick)
    finisher = Finisher(context, outcomes, spool, send, stop_grace=settings.worker_stop_grace)
    renderer = Renderer(
        context,
        outcomes,
        finisher,
        settings=settings,
        leases=leases,
        turns=TurnTaker(
            base.ledger,
            machine.heartbeat,
            machine.health,
            send,
            base.leaving,
            budget_gb=settings.worker_memory_gb,
            gpu_gb=settings.gpu_gb,
        ),
        work=base.work,
        embeddings=embeddings if settings.worker_embeds_bytes else None,
        are_more_waiting=functools.partial(_are_any, base.hasty, base.queue_keys),
        find_fault=machine.probes.folders,
    )
    return AttemptParts(renderer=renderer, finisher=finisher, spool=spool, leases=leases, embeddings=embeddings)


def _build_queue(base: Base, machine: MachineParts, send: SendRender) -> QueueParts:
    """Return what looks after the farm's queue."""
    settings = base.settings
    reaper = Reaper(
        base.client,
        settings.names,
        base.ledger,
        send,
        EmbeddingsLimit(base.client, settings.names, settings.worker_embeds_ttl, settings.worker_embeds_bytes),
        holder=machine.heartbeat.run,  # two machines may have one id, for a while
        every=settings.worker_reap_every,
        lease=settings.worker_lease,
        level=highest_level(),
        note_requeued=base.metrics.requeued,
    )
    orphans = Orphans(
        base.storage,
        base.ledger,
        lambda: reaper.is_chosen,
        every=settings.worker_sweep_every,
        tidy=base.work.tidy,
    )
    return QueueParts(reaper=reaper, orphans=orphans)


def _context(base: Base, machine: MachineParts) -> WorkerContext:
    return WorkerContext(
        ledger=base.ledger,
        engine=base.engine,
        storage=base.storage,
        points=ResumePoints(base.ledger, base.storage, base.work.path, base.settings.worker_resume_in_redis),
        health=machine.health,
        heartbeat=machine.heartbeat,
        leaving=base.leaving,
        observers=(CountedAttempts(base.metrics),),
    )


def _spool(context: WorkerContext, settings: WorkerSettings, files: FileServer) -> Spool:
    return Spool(
        settings.home / SPOOL,
        context.storage,
        context.ledger,
        context.points,
        retry_for=settings.worker_deliver_for,
        look_every=settings.worker_renew_every,
        sign_for=settings.worker_sign_for,
        own_link=files.link,
        observers=context.observers,
    )


def _are_any(client: redis.Redis, queues: list[str]) -> bool:
    """Return whether any of these lists holds something; not while Redis is away."""
    try:
        return bool(client.exists(*queues))
    except redis.RedisError:
        return False


def _others_serve(base: Base, own: str, job: Job) -> bool:
    relations = base.ledger.relations(job.id)
    return any(
        worker.serves(job) and own != worker.id and not relations.excludes(worker.id, worker.name)
        for worker in live_workers(base.client, base.settings.names)
    )
