"""Every thread of a worker goes on, whatever its calls raise; and one that cannot makes the worker say so, and end."""

import errno
import logging
import math
import os
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pydantic
import pytest
import redis
from kombu.exceptions import OperationalError

from ltx_client.protocol import events
from ltx_client.protocol.jobs import UnreadableJob
from ltx_client.protocol.state import Snapshot
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.storage.store import StorageError
from ltx_worker.attempt.attempt import Attempt
from ltx_worker.attempt.delivery import Spool
from ltx_worker.attempt.event_publisher import EventPublisher
from ltx_worker.attempt.finish import Finisher
from ltx_worker.attempt.lease import LeaseKeeper, Leases
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.resume_saver import ResumeSaver
from ltx_worker.celery.watchdog import Watchdog
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache
from ltx_worker.ledger.ledger import Claim, StaleAttempt, Verdict
from ltx_worker.machine import health, idle_unload
from ltx_worker.machine.health import Health
from ltx_worker.machine.idle_unload import IdleUnload
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.queue.reaper import Reaper
from ltx_worker.settings import WorkerSettings
from ltx_worker.threads import background
from ltx_worker.threads.background import Background, keep_at_it
from ltx_worker.threads.supervision import Supervisor
from ltx_worker.threads.watched import THREADS, Threads


def _invalid():
    try:
        WorkerInfo.model_validate({})
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


ERRORS = [
    redis.ConnectionError("gone"),
    redis.TimeoutError("slow"),
    redis.exceptions.BusyLoadingError("loading"),
    redis.AuthenticationError("who?"),
    redis.exceptions.OutOfMemoryError("full", status_code="OOM"),
    redis.exceptions.ReadOnlyError("a replica", status_code="READONLY"),
    redis.exceptions.NoPermissionError("no", status_code="NOPERM"),
    redis.exceptions.NoScriptError("lost", status_code="NOSCRIPT"),
    redis.ResponseError("BUSY with a script"),
    redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    redis.ResponseError("ERR something else"),
    redis.InvalidResponse("what is this"),
    redis.DataError("not to be sent"),
    redis.WatchError("changed"),
    OperationalError("kombu says so"),
    OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)),
    StorageError("away"),
    UnreadableJob("damaged"),
    _invalid(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    OverflowError("int too large to convert to float"),
    ValueError("no"),
    TypeError("no"),
    KeyError("no"),
    AttributeError("no"),
    AssertionError("no"),
    RecursionError("too deep"),
    MemoryError(),
    RuntimeError("can't start new thread"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
]


class Fails:
    """A call that raises each of these in turn, then does what it should, and says so."""

    def __init__(self, result=None, errors=ERRORS):
        self.left = list(errors)
        self.worked = threading.Event()
        self._result = result

    def __call__(self, *args, **options):
        if self.left:
            raise self.left.pop(0)
        self.worked.set()
        return self._result(*args, **options) if callable(self._result) else self._result


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch):
    monkeypatch.setattr(background, "FIRST_PAUSE", 1e-6)
    monkeypatch.setattr(health, "CHECK_EVERY", 0.001)
    monkeypatch.setattr(idle_unload, "CHECK_EVERY", 0.001)
    monkeypatch.setattr("ltx_worker.threads.retrying.REFUSED_FOR", 0.0)


@pytest.fixture
def settings(tmp_path, names):
    return WorkerSettings(broker_url=None, home=tmp_path, namespace=names.namespace, worker_heartbeat_every=0.001)


@pytest.fixture
def make_parts(redis_client, names, ledger, settings, tmp_path, monkeypatch, job):
    """By the name of a thread, what has its loop fail: returns the part to start and the call that fails first."""
    monkeypatch.setattr("ltx_worker.membership.heartbeat.AT_MOST_EVERY", 0.001)

    def heartbeat():
        part = Heartbeat(settings, redis_client, "pocket", SimpleNamespace(set_user_pause=lambda why: False))
        part._tell = fails = Fails()
        return part, fails

    def leases():
        part = Leases(redis_client, names, ledger, 0.001)
        part._client = SimpleNamespace(pubsub=(fails := Fails(redis_client.pubsub)))
        return part, fails

    def renewals():
        part = Leases(redis_client, names, ledger, 0.001)
        keeper = part.keep(LeaseKeeper(Claim("j", 1, "t", Snapshot())))
        keeper.__enter__()
        part._ledger = SimpleNamespace(renew=(fails := Fails(Verdict.CONTINUE)))
        part._serve_once = keeper
        return part, fails

    def reaper():
        part = Reaper(
            redis_client, names, ledger, lambda *_, **__: None, SimpleNamespace(keep=lambda: None),
            holder="w", every=0.001, lease=1,
        )  # fmt: skip
        part._has_lock = fails = Fails(True)
        return part, fails

    def spool():
        part = Spool(
            tmp_path / "spool", SimpleNamespace(), ledger, SimpleNamespace(sweep=(fails := Fails())),
            retry_for=0, look_every=0.001,
        )  # fmt: skip
        return part, fails

    def watchdog():
        part = Watchdog(
            SimpleNamespace(exists=(fails := Fails(0))), ["q"], taken=lambda: 1, rebuild=None, give_up=None, limit=0.001
        )
        part._idle_with = 1
        part._taken = lambda: part._idle_with or 1
        return part, fails

    def health_():
        part = Health("w", lambda _: Snapshot(), lambda _: False, hand_on=0)
        part._ask_off_duty = fails = Fails("")
        part.control(SimpleNamespace(stop=lambda: None, start=lambda: None))
        return part, fails

    def idle_unload_():
        part = IdleUnload(SimpleNamespace(free_if_idle=(fails := Fails(False))), 0.004)
        return part, fails

    def supervisor():
        part = Supervisor(lambda why: None, unready_after=0.01, threads=Threads())
        part._say = fails = Fails()
        return part, fails

    def embeddings():
        part = EmbeddingsCache(redis_client, names, 10)
        part._pending = SimpleNamespace(
            get=(fails := Fails(lambda timeout: ("m", {}))), empty=lambda: True, put_nowait=lambda _: None
        )
        return part, fails

    def finisher():
        attempt = Attempt(claim_of(job), ledger)
        fails = Fails()
        part = Finisher(None, SimpleNamespace(see_through=fails), None, None, stop_grace=1)

        def bring():
            while not fails.worked.is_set():
                part.take(attempt)

        part.start = lambda: (Background.start(part), threading.Thread(target=bring, daemon=True).start())
        return part, fails

    return {
        "heartbeat": heartbeat,
        "leases": leases,
        "renewals": renewals,
        "reaper": reaper,
        "spool": spool,
        "watchdog": watchdog,
        "health": health_,
        "idle-unload": idle_unload_,
        "supervisor": supervisor,
        "embeddings": embeddings,
        "finisher": finisher,
    }


LOOPS = ["heartbeat", "leases", "renewals", "reaper", "spool", "watchdog", "health", "idle-unload", "supervisor"]
LOOPS += ["embeddings", "finisher"]


@pytest.mark.parametrize("name", LOOPS)
def test_a_thread_goes_on_whatever_its_calls_raise(make_parts, name):
    part, fails = make_parts[name]()
    part.start()
    try:
        assert fails.worked.wait(60), f"{len(fails.left)} errors were left: {fails.left[:1]}"
        assert part._thread.is_alive()
    finally:
        part.stop()


def claim_of(job):
    return Claim(job.id, 1, "t", Snapshot())


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_events_are_published_or_the_attempt_ends(job, error, monkeypatch):
    """An outage is waited for; after anything else the attempt is given up, and nobody waits for its events."""
    monkeypatch.setattr("ltx_worker.threads.retrying.wait_exponential", lambda **_: lambda _: 0)
    emit = Fails(Verdict.CONTINUE, [error, error])
    keeper = LeaseKeeper(claim_of(job))
    with EventPublisher(SimpleNamespace(emit_all=emit), keeper, threading.Event()) as publisher:
        publisher.put(events.TextEncoded())
    assert not publisher._thread.is_alive()
    assert emit.worked.is_set() != keeper.broken.is_set()
    assert bool(keeper.why_broken) == keeper.broken.is_set()


def test_a_stale_attempt_publishes_no_more(job):
    keeper = LeaseKeeper(claim_of(job))
    emit = Fails(Verdict.CONTINUE, [StaleAttempt("no")])
    with EventPublisher(SimpleNamespace(emit_all=emit), keeper, threading.Event()) as publisher:
        publisher.put(events.TextEncoded())
    assert keeper.stale.is_set()
    assert not keeper.broken.is_set()


def test_the_saver_saves_the_next_point_whatever_befell_the_last(job):
    save = Fails(None)
    with ResumeSaver(SimpleNamespace(save=save), claim_of(job), lambda fault: None) as saver:
        deadline = time.monotonic() + 60
        while not save.worked.is_set() and time.monotonic() < deadline:
            saver.offer(b"point")
    assert save.worked.is_set()
    (info,) = [info for info in THREADS.infos() if info.name == "saver"]
    assert info.errors == len(ERRORS)


def test_an_error_is_counted_and_told_once_a_kind(caplog):
    threads, stopped = Threads(), threading.Event()
    counted = []
    threads.on_error = lambda *what: counted.append(what)
    fails = Fails(lambda: stopped.set(), [redis.exceptions.OutOfMemoryError("full", status_code="OOM")] * 5)
    with caplog.at_level(logging.INFO), threads.at_work("leases") as loop:
        keep_at_it(fails, loop, stopped)
        (info,) = threads.infos()
    assert counted == [("leases", "OOM")] * 5
    assert (info.name, info.errors, info.failing) == ("leases", 5, False)
    assert "full" in info.error
    assert abs(info.error_at - time.time()) < 60
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "works again" in caplog.messages[1]


def test_an_error_of_our_own_is_told_with_its_traceback(caplog):
    threads, stopped = Threads(), threading.Event()
    with threads.at_work("reaper") as loop:
        keep_at_it(Fails(lambda: stopped.set(), [OverflowError("too large")]), loop, stopped)
    assert caplog.records[0].exc_info
    assert "OverflowError: too large" in caplog.messages[0]


def test_an_unready_worker_takes_no_jobs_and_says_why():
    machine = Health("w", lambda _: Snapshot(), lambda _: False, hand_on=0)
    assert machine.fitness is health.Fitness.FIT
    THREADS.why_unready = "its thread spool cannot go on"
    assert (machine.fitness, machine.why_paused) == (health.Fitness.UNREADY, "its thread spool cannot go on")


def test_threads_go_through_the_broker_and_damaged_ones_are_none(settings, redis_client):
    heartbeat = Heartbeat(settings, redis_client, "pocket", Health("w", None, None, hand_on=0))
    threads = Threads()
    heartbeat._threads = threads
    with threads.at_work("leases") as loop:
        loop.fail(redis.ConnectionError("gone"))
        info = heartbeat.info()
        back = WorkerInfo.model_validate({name: str(value) for name, value in info.fields().items()})
    assert back.threads == info.threads
    assert (back.threads[0].name, back.threads[0].failing) == ("leases", True)
    assert WorkerInfo.model_validate({**info.fields(), "threads": "[{]"}).threads == ()
    assert WorkerInfo.model_validate({**info.fields(), "threads": ""}).threads == ()


def test_a_video_of_an_engine_that_speaks_nonsense_is_told(monkeypatch):
    """Whatever reading a message raises ends the engine, and whoever waits for it hears of that."""
    from ltx_worker.engine import process

    for error in (MemoryError(), ValueError("no message"), RuntimeError("?"), SystemExit(1)):
        monkeypatch.setattr(process, "receive_message", Fails(None, [error]))
        engine = process.EngineProcess("ltx_worker.engine.noop", "pocket")
        video: Future = engine.expect_video("x.mp4")
        assert isinstance(video.exception(timeout=120), process.EngineDied)
        engine.end()


def test_limits_of_all_loops_are_finite_or_meant(make_parts):
    for make in make_parts.values():
        part, _ = make()
        assert part._limit < math.inf


def test_points_that_cannot_be_had_are_none(ledger, job, tmp_path, redis_client, names):
    redis_client.lpush(names.latents(job.id), "what is this")
    assert ResumePoints(ledger, SimpleNamespace(), tmp_path, 10).load(job.id) is None
