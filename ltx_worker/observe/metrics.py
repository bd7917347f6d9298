"""What Prometheus may know of a worker and its farm. deploy/ has a scrape configuration and a dashboard."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import psutil
import redis
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ltx_client.protocol.names import Names, queue_name
from ltx_client.protocol.versions.features import highest_level, levels
from ltx_client.shared.broker.certificate import broker_certificate
from ltx_client.shared.celery.celery_settings import queue_keys
from ltx_client.shared.unexpected_data import is_wrong_type
from ltx_models.errors import FaultKind
from ltx_models.families.variants import VARIANTS
from ltx_models.memory import MEMORY_CLASSES
from ltx_worker.http.server import BoundedHandler, BoundedServer, ServerThread
from ltx_worker.machine.thermal import PRESSURES
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.threads.watched import THREADS

__all__ = ["Metrics"]

log = logging.getLogger(__name__)

SCRAPES = 8
"""Scrapes at the same time, at most."""
STEP_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 300)
PHASE_BUCKETS = (0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
"""Seconds: from the small model on any machine to a long clip on a small Mac."""


class Metrics:
    """Has one worker's counters, and looks up the rest when somebody scrapes them."""

    def __init__(self, variant: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"variant": variant}
        self._jobs = self._counter("ltx_jobs", "Attempts that ended here, by what became of the job.", "outcome")
        for outcome in ("done", "failed", "cancelled", "released"):
            self._jobs.labels(**self._labels, outcome=outcome)
        self._losses = self._counter("ltx_lease_losses", "Attempts of this worker that another one took over.")
        self._requeued = self._counter("ltx_requeued_jobs", "Jobs of workers that were gone, put back by this one.")
        self._deaths = self._counter("ltx_engine_deaths", "Render processes that died.", "fault")
        for fault in ("machine", "unknown"):
            self._deaths.labels(**self._labels, fault=fault)
        self._faults = self._counter("ltx_machine_faults", "What was found wrong with this machine.", "kind")
        for kind in FaultKind:
            self._faults.labels(**self._labels, kind=kind)
        self._thread_errors = self._counter("ltx_thread_errors", "In the worker's threads.", "thread", "error")
        self._thread_errors.labels(**self._labels, thread="leases", error="ConnectionError")
        self._steps = Histogram(
            "ltx_step_seconds", "A denoising step.", self._labels, buckets=STEP_BUCKETS, registry=self.registry
        )
        self._phases = Histogram(
            "ltx_phase_seconds",
            "A phase of a render.",
            [*self._labels, "phase"],
            buckets=PHASE_BUCKETS,
            registry=self.registry,
        )
        self._peak = Gauge(
            "ltx_render_peak_memory_bytes",
            "The last render's peak, as MLX saw it.",
            self._labels,
            registry=self.registry,
        )
        self._clock = _Clock()
        self._serving: ServerThread | None = None

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(name, text, [*self._labels, *labels], registry=self.registry)
        if not labels:
            counter.labels(**self._labels)  # it is there from the first scrape on, at 0
        return counter

    def watch(
        self, client: redis.Redis, names: Names, heartbeat: Heartbeat, *, budget: float, waiting: Callable[[], int]
    ) -> None:
        """Look these up at each scrape. budget: bytes.  waiting: how many videos wait to be delivered."""
        lookups = _Lookups(
            labels=self._labels,
            clock=self._clock,
            client=client,
            names=names,
            heartbeat=heartbeat,
            budget=budget,
            waiting=waiting,
        )
        self.registry.register(lookups)

    def serve(self, address: str, port: int) -> str:
        """Answer scrapes from a thread; port 0: none. Return why it cannot, as where the port is another worker's."""
        if not port:
            return ""
        try:
            server = BoundedServer((address, port), _handler(self.registry), connections=SCRAPES)
        except OSError as error:
            why = f"no metrics at {address}:{port}: {error.strerror}"
            log.error("%s", why)
            return why
        else:
            self._serving = ServerThread(server, "metrics-server")
            self._serving.start()
            log.info("metrics at http://%s:%d/metrics", address, port)
        return ""

    def stop(self) -> None:
        """Answer no more."""
        if self._serving is not None:
            self._serving.stop()

    def rendering(self, renders: int) -> None:
        """Count for how long the GPU has work: so many renders more have begun, or have ended if it is negative."""
        if renders:
            self._clock.add(renders)

    def stepped(self, seconds: float) -> None:
        """Count a denoising step that took so long."""
        self._steps.labels(**self._labels).observe(seconds)

    def rendered(self, seconds: dict[str, float], peak_memory: int) -> None:
        """Count a render that came to its end: seconds by phase, bytes."""
        for phase, duration in seconds.items():
            self._phases.labels(**self._labels, phase=phase).observe(duration)
        self._peak.labels(**self._labels).set(peak_memory)

    def written(self, seconds: float) -> None:
        """Count an MP4 that was complete so long after its frames were decoded."""
        self._phases.labels(**self._labels, phase="encode").observe(seconds)

    def engine_died(self, *, of_its_machine: bool) -> None:
        """Count a death of the engine."""
        self._deaths.labels(**self._labels, fault="machine" if of_its_machine else "unknown").inc()

    def machine_failed(self, kind: FaultKind) -> None:
        """Count what was found wrong with this machine."""
        self._faults.labels(**self._labels, kind=kind).inc()

    def ended(self, outcome: str) -> None:
        """Count an attempt that ended, and whose job is done, failed, cancelled or released."""
        self._jobs.labels(**self._labels, outcome=outcome).inc()

    def lease_lost(self) -> None:
        """Count an attempt that another worker has taken over."""
        self._losses.labels(**self._labels).inc()

    def thread_failed(self, thread: str, error: str) -> None:
        """Count an error in a thread of this kind, after which it tries again."""
        self._thread_errors.labels(**self._labels, thread=thread, error=error).inc()

    def requeued(self) -> None:
        """Count a job that was put back for a worker that is gone."""
        self._requeued.labels(**self._labels).inc()


def _handler(registry: CollectorRegistry) -> type[BoundedHandler]:
    """Return what answers scrapes with what is registered: prometheus_client's handler, bounded."""
    return type("_Handler", (BoundedHandler, MetricsHandler), {"registry": registry})


class _Clock:
    """Measures for how long the GPU had work, and had none, in seconds."""

    def __init__(self) -> None:
        self._renders = 0
        self._since = time.monotonic()
        self._seconds = {True: 0.0, False: 0.0}
        self._lock = threading.Lock()

    def add(self, renders: int) -> None:
        """Note that so many renders more have begun, or have ended if it is negative."""
        with self._lock:
            self._count()
            self._renders += renders

    def seconds(self) -> tuple[float, float]:
        """Return the seconds with work, and without."""
        with self._lock:
            self._count()
            return self._seconds[True], self._seconds[False]

    def _count(self) -> None:
        now = time.monotonic()
        self._seconds[self._renders > 0] += now - self._since
        self._since = now


@dataclass(eq=False, kw_only=True)
class _Lookups(Collector):
    """Answers each scrape anew. The farm's queues are the same whichever worker is asked."""

    labels: dict[str, str]
    clock: _Clock
    client: redis.Redis
    names: Names
    heartbeat: Heartbeat
    budget: float
    waiting: Callable[[], int]
    certificate_ends: float | None = None
    """As the broker showed it last: an expired one is not shown to anybody."""

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the families, those of the queues only where Redis answers."""
        info = self.heartbeat.info()
        labels = {"id": info.id, "name": info.name, "chip": info.chip, "version": info.version, **self.labels}
        yield _gauge("ltx_worker_info", "What this worker is.", [({**labels}, 1)])
        yield _gauge("ltx_worker_state", "1 for the state it is in.", [({"state": info.state, **self.labels}, 1)])
        if info.temperature is not None:
            yield _gauge("ltx_temperature_celsius", "Of its hottest sensor.", [(self.labels, info.temperature)])
        if info.thermal_pressure is not None:
            level = PRESSURES.index(info.thermal_pressure)
            yield _gauge("ltx_thermal_pressure", f"A Mac's: {', '.join(PRESSURES)}, from 0.", [(self.labels, level)])
        busy, idle = self.clock.seconds()
        yield _counter("ltx_gpu_busy_seconds", "With a render in hand.", self.labels, busy)
        yield _counter("ltx_gpu_idle_seconds", "With none.", self.labels, idle)
        memory = psutil.virtual_memory()
        yield _gauge("ltx_memory_bytes", "Of this machine.", [({"kind": "total"}, memory.total)])
        yield _gauge("ltx_memory_available_bytes", "Of this machine, for new work.", [({}, memory.available)])
        yield _gauge("ltx_memory_budget_bytes", "What renders may use here.", [(self.labels, self.budget)])
        threads = [({"thread": thread.name, **self.labels}, float(thread.failing)) for thread in info.threads]
        if threads:
            yield _gauge("ltx_thread_failing", "1 while a thread has done nothing since its last error.", threads)
        with THREADS.at_work("metrics"):
            try:
                waiting = self.waiting()
            except OSError as error:
                THREADS.note(error)
            else:
                yield _gauge(
                    "ltx_undelivered_videos", "Finished, and not in the storage yet.", [(self.labels, waiting)]
                )
            try:
                depths = self._depths()
                found = broker_certificate(self.client)
            except redis.RedisError as error:
                THREADS.note(error)
                depths = None
            else:
                self.certificate_ends = found and found.ends
        yield _gauge("ltx_broker_up", "1 where the broker answers this worker.", [({}, float(depths is not None))])
        if self.certificate_ends is not None:
            text = "When the broker's certificate ends, in seconds since 1970."
            yield _gauge("ltx_broker_certificate_expiry_timestamp_seconds", text, [({}, self.certificate_ends)])
        if depths is not None:
            yield _gauge("ltx_queue_depth", "Messages that wait, of the whole farm.", depths)

    def _depths(self) -> list[tuple[dict[str, str], float]]:
        keys = {variant: list(self._queue_keys(variant)) for variant in VARIANTS}
        with self.client.pipeline(transaction=False) as pipeline:
            for key in (key for of_variant in keys.values() for key in of_variant):
                pipeline.llen(key)
            replies = pipeline.execute(raise_on_error=False)
        errors = [reply for reply in replies if isinstance(reply, Exception) and not is_wrong_type(reply)]
        if errors:
            raise errors[0]
        lengths = iter(0 if isinstance(reply, Exception) else reply for reply in replies)
        return [({"variant": variant}, sum(next(lengths) for _ in of_variant)) for variant, of_variant in keys.items()]

    def _queue_keys(self, variant: str) -> Iterator[str]:
        for level in (*levels(), highest_level() + 1):  # and where jobs of newer versions are put back
            for size in MEMORY_CLASSES:
                yield from queue_keys(self.names, queue_name(variant, size, level))


def _gauge(name: str, text: str, samples: Iterable[tuple[dict[str, str], float]]) -> GaugeMetricFamily:
    samples = list(samples)
    family = GaugeMetricFamily(name, text, labels=list(samples[0][0]))
    for labels, value in samples:
        family.add_metric(list(labels.values()), value)
    return family


def _counter(name: str, text: str, labels: dict[str, str], value: float) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
