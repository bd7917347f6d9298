"""A worker whose thread, or main loop, cannot go on: it takes no jobs, says so, gives its job back, and ends."""

import os
import sys
import time

import psutil
import pytest

from ltx_client.protocol.state import Status
from tests.integration.conftest import PATIENCE, ltx_here, wait_until
from tests.integration.faults.dead_threads import dead_threads
from tests.integration.faults.quick import LEASE, START, QuickFarm

BREAK = "import os, time, pathlib; MARK = pathlib.Path(os.environ['LTX_HOME']) / 'break'; "
LOOP_RAISES = """
from ltx_worker.machine.idle_unload import IdleUnload
def cycle(self, cycle=IdleUnload._cycle):
    if MARK.exists():
        raise TypeError("broken on purpose")
    self._stopped.wait(0.05)
IdleUnload._cycle = cycle
"""
LOOP_HANGS = """
from ltx_worker.machine.idle_unload import IdleUnload
def cycle(self):
    self._loop.limit = 0.5
    while MARK.exists():
        time.sleep(0.05)
    self._stopped.wait(0.05)
IdleUnload._cycle = cycle
"""
MAIN_LOOP_RAISES = """
from ltx_worker.celery.consumer import Consumer
def watch(self, threads, watch=Consumer.watch):
    def tick():
        if MARK.exists():
            raise RuntimeError("broken on purpose")
    watch(self, threads)
    self._worker.hub.on_tick.add(tick)
Consumer.watch = watch
"""
BOUNDS = {"unready_after": 0.5, "end_after": 8}  # in between it is looked at, on a busy machine too


@pytest.fixture
def farm(tmp_path, clean_env):
    farm = QuickFarm(tmp_path / "farm", clean_env)
    yield farm
    farm.close()


def broken(farm, code):
    """A worker in mid-render that is about to break; the job, and how long it took from then on to end."""
    worker = farm.start_worker(command=(sys.executable, "-c", f"{BREAK}\n{code}\n{START}"), step=0.1, **BOUNDS)
    job_id = farm.submit(steps=200)
    wait_until(lambda: farm.snapshot(job_id).step > 2, what="its first steps")
    (farm.folder / "worker-one" / "break").touch()
    return worker, job_id


def assert_given_back(farm, job_id):
    """Without a strike; and another worker goes on with it."""
    with farm.admin() as client:
        state = client.hgetall(farm.names.state(job_id))
    assert farm.snapshot(job_id).status is Status.QUEUED
    assert not {name: count for name, count in state.items() if name in (b"deaths", b"lapses") and count != b"0"}
    farm.start_worker("two", step=0.001)
    (snapshot,) = farm.await_ended(job_id)
    assert (snapshot.status, snapshot.attempt) == (Status.DONE, 2)


@pytest.mark.parametrize(("code", "why"), [(LOOP_RAISES, "broken on purpose"), (LOOP_HANGS, "has not moved")])
def test_a_loop_that_cannot_go_on_is_told_and_ends_the_worker(farm, code, why):
    worker, job_id = broken(farm, code)
    (said,) = wait_until(
        lambda: [found for found in farm.said() if found["state"] == "unready"], what="the worker saying so"
    )
    assert "its thread idle-unload" in said["why_paused"]
    assert why in said["why_paused"]
    shown = ltx_here("workers", env=farm.client_env)
    assert "one cannot continue" in shown.output
    assert worker.process.wait(PATIENCE) == os.EX_TEMPFAIL
    log = worker.log.read_text()
    assert "this worker takes no jobs: its thread idle-unload" in log
    assert "this worker ends, to be started again" in log
    assert log.count("broken on purpose; trying again") <= 1
    assert_given_back(farm, job_id)


def test_a_main_loop_that_ends_ends_the_process(farm):
    worker, job_id = broken(farm, MAIN_LOOP_RAISES)
    assert worker.process.wait(PATIENCE) == os.EX_TEMPFAIL
    assert farm.said() == []
    assert_given_back(farm, job_id)


def test_an_unready_worker_takes_no_jobs_and_is_ready_again_when_its_thread_works(farm):
    command = (sys.executable, "-c", f"{BREAK}\n{LOOP_RAISES}\n{START}")
    farm.start_worker(command=command, unready_after=0.5, end_after=60)
    mark = farm.folder / "worker-one" / "break"
    mark.touch()
    wait_until(lambda: farm.said()[0]["state"] == "unready", what="the worker saying so")
    job_id = farm.submit()
    time.sleep(2 * LEASE)
    assert farm.snapshot(job_id).status is Status.QUEUED
    mark.unlink()
    (snapshot,) = farm.await_ended(job_id)
    assert (snapshot.status, snapshot.attempt) == (Status.DONE, 1)
    (said,) = farm.said()
    assert dead_threads(said) == []
    assert next(thread for thread in said["threads"] if thread["name"] == "idle-unload")["errors"] > 1


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux changes another process's limits")
def test_too_many_open_files_end_no_thread(farm):
    worker = farm.start_worker()
    farm.await_ended(farm.submit())
    process = psutil.Process(worker.process.pid)
    _, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    job_id = farm.submit()
    wait_until(lambda: farm.snapshot(job_id).step > 0, what="its first step")
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), hard))
    worker.proxy.cut()  # which has everything of it connect anew
    time.sleep(2 * LEASE)
    process.rlimit(psutil.RLIMIT_NOFILE, (hard, hard))
    (snapshot,) = farm.await_ended(job_id)
    assert snapshot.status is Status.DONE
    time.sleep(2 * LEASE)
    if worker.process.poll() is None:
        (said,) = farm.said()
        assert dead_threads(said) == []
        assert "EMFILE" in worker.log.read_text() or "Too many open files" in worker.log.read_text()
    else:
        assert worker.process.returncode == os.EX_TEMPFAIL
        farm.start_worker()
    (later,) = farm.await_ended(farm.submit())
    assert (later.status, later.attempt) == (Status.DONE, 1)


def test_stray_files_and_damaged_keys_beside_a_working_farm(farm):
    farm.start_worker()
    spool = farm.folder / "worker-one" / "spool"
    (spool / ".DS_Store").write_bytes(b"what")
    (spool / "a-job.1").mkdir()
    (spool / "a-job.1" / "delivery.json").write_text("")
    with farm.admin() as client:
        client.set(farm.names.job("bad"), "what is this")
        client.zadd(farm.names.jobs(), {"bad": 1, b"\xff\xfe": 2})
        client.set(farm.names.namespace + "pocket.1\x06\x163", "no list")
        client.set(farm.names.namespace + "unacked", "no hash")
    for _ in range(3):
        (snapshot,) = farm.await_ended(farm.submit())
        assert (snapshot.status, snapshot.attempt) == (Status.DONE, 1)
    time.sleep(LEASE)
    (said,) = farm.said()
    assert dead_threads(said) == []
    log = farm.workers["one"].log.read_text()
    assert log.count("is set aside: it is no list of messages") == 1
    assert log.count(".DS_Store is set aside") == 1
