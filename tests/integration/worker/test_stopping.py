"""Test how a worker is stopped, drained and refused, and when it ends a render by itself."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, ltx, wait_until
from tests.integration.farm.test_jobs import engines_of, first_step, reach


def ltx_worker(farm_env, *arguments, name="one"):
    env = {**farm_env.env, "LTX_HOME": str(farm_env.folder / f"worker-{name}")}
    return subprocess.run(
        [sys.executable, "-m", "ltx_worker", *arguments], env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        [signal.SIGHUP],
        [signal.SIGQUIT],
        [signal.SIGTERM, signal.SIGTERM],
        [signal.SIGINT, signal.SIGINT],
    ],
    ids=lambda signals: "+".join(number.name for number in signals),
)
def test_however_it_is_stopped_the_job_goes_on(farm_env, signals):
    worker = farm_env.start_worker("one", save_every=0)
    with farm_env.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT, num_steps=40, seed=1))
        reach(farm, job.id, 10)
        for number in signals:
            worker.send_signal(number)
            time.sleep(0.05)
        assert worker.wait(120) == 0
        assert farm.view(job.id).status is Status.QUEUED
        farm_env.start_worker("two")
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 2)
        assert last.snapshot.lost_steps < 20


FULL_DISK = """
import resource
from ltx_worker.cli import main
from ltx_worker.commands import start
instance_lock = start.instance_lock
def on_a_full_disk(home):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # which is as near to one as any user comes
    return instance_lock(home)
start.instance_lock = on_a_full_disk
main(prog_name="ltx-worker")
"""


def test_under_nohup_a_worker_outlives_its_terminal(farm_env):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a process inherits
    try:
        worker = farm_env.start_worker("one", "--no-op")
    finally:
        signal.signal(signal.SIGHUP, before)
    worker.send_signal(signal.SIGHUP)
    with farm_env.connect() as farm:
        *_, last = farm.watch(farm.submit(GenerationRequest(prompt=PROMPT, seed=1)).id)
        assert last.snapshot.status is Status.DONE
    assert worker.poll() is None


def test_drain_finishes_the_job_in_hand_and_takes_no_more(farm_env):
    worker = farm_env.start_worker()
    with farm_env.connect() as farm:
        jobs = [farm.submit(GenerationRequest(prompt=PROMPT, num_steps=120, seed=1)) for _ in range(2)]
        first_step(farm, jobs[0].id)
        assert ltx_worker(farm_env, "status").stdout == f"running, process {worker.pid}\n"
        assert ltx_worker(farm_env, "drain").returncode == 0
        ending = f"ending, process {worker.pid}\n"
        wait_until(lambda: ltx_worker(farm_env, "status").stdout == ending, what="that it is ending, being told")
        assert worker.wait(120) == 0
        assert [farm.view(job.id).status for job in jobs] == [Status.DONE, Status.QUEUED]
        assert farm.view(jobs[0].id).snapshot.attempt == 1
    assert ltx_worker(farm_env, "status").returncode == 1
    assert "no worker runs here" in ltx_worker(farm_env, "drain").stderr


def test_stop_ends_an_idle_worker(farm_env):
    worker = farm_env.start_worker("one", "--no-op")
    assert ltx_worker(farm_env, "stop").returncode == 0
    assert worker.wait(120) == 0
    with farm_env.connect() as farm:
        assert farm.workers() == []


def test_a_second_worker_of_the_same_home_is_refused(farm_env):
    first = farm_env.start_worker("one", "--no-op")
    second = ltx_worker(farm_env, "start")
    assert second.returncode == 69
    assert f"process {first.pid}" in second.stderr
    assert first.poll() is None


def test_a_render_over_its_time_limit_fails(farm_env, slow_request):
    farm_env.start_worker()
    with farm_env.connect() as farm:
        job = farm.submit(slow_request, time_limit=2.0)
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.FAILED
        assert last.snapshot.error == "it took longer than its limit of 2 s"


def test_an_idle_worker_frees_its_models_and_loads_them_again(farm_env):
    farm_env.start_worker(free_after=1)
    wait_until(lambda: not engines_of(farm_env.folder), what="the engine's end")
    with farm_env.connect() as farm:
        assert [worker.state for worker in farm.workers()] == ["idle"]
        for _ in range(2):
            job = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
            *_, last = farm.watch(job.id)
            assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
            wait_until(lambda: not engines_of(farm_env.folder), what="the engine's end")


def test_a_render_that_hangs_is_killed_and_goes_on(farm_env):
    farm_env.start_worker(stall_limit=6, save_every=0)  # a busy machine may stall a step for a while itself
    with farm_env.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT, num_steps=60, seed=1))
        reach(farm, job.id, 20)
        (engine,) = engines_of(farm_env.folder)
        engine.suspend()
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 2)
        assert any("no progress" in (update.snapshot.message or "") for update in farm.watch(job.id))


def test_a_worker_that_was_suspended_past_its_lease_writes_nothing_more(farm_env):
    first = farm_env.start_worker("one", lease=2, renew_every=0.5, save_every=0)
    with farm_env.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT, num_steps=100, seed=1))
        reach(farm, job.id, 10)
        first.send_signal(signal.SIGSTOP)
        engine = engines_of(farm_env.folder)[0]
        engine.suspend()
        farm_env.start_worker("two", lease=2, renew_every=0.5, reap_every=0.5)
        for update in farm.watch(job.id):
            if update.snapshot.worker_name == "two" and update.snapshot.step > 20:
                break
        engine.resume()
        first.send_signal(signal.SIGCONT)
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt, last.snapshot.worker_name) == (Status.DONE, 2, "two")
        assert [path.name for path in farm_env.storage.glob("*.mp4")] == [last.snapshot.result.video]
        again = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        *_, last = farm.watch(again.id)
        assert last.snapshot.status is Status.DONE


def test_a_job_of_another_protocol_version_is_rendered_by_neither_side(farm_env):
    """The client says so; the worker leaves it to newer ones, and renders the next."""
    with farm_env.connect() as farm, farm_env.server.address.connect() as client:
        job = farm.submit(GenerationRequest(prompt=PROMPT))
        newer = job.model_dump_json().replace('"protocol":1', '"protocol":2').replace('"prompt"', '"scene"')
        client.hset(Names().job(job.id), "spec", newer)
        farm_env.start_worker("one", "--no-op", reap_every=0.5)
        shown = ltx("show", job.id, env=farm_env.env)
        assert shown.returncode == 1
        assert "protocol version 2, but this side speaks version 1" in shown.stderr
        log = farm_env.folder / "one.log"
        wait_until(lambda: "left to newer workers" in log.read_text(), what="the worker's refusal")
        assert "protocol version 2" in log.read_text()
        mine = farm.submit(GenerationRequest(prompt=PROMPT))
        *_, last = farm.watch(mine.id)
        assert last.snapshot.status is Status.DONE
        assert len(farm.jobs()) == 1
        assert not client.exists(Names().state(job.id))


def test_a_worker_whose_disk_is_full_ends_with_a_sentence(farm_env):
    command = [sys.executable, "-c", FULL_DISK, "start"]
    done = subprocess.run(command, env=farm_env.env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == os.EX_UNAVAILABLE
    *_, said = done.stderr.splitlines()
    home = farm_env.env["LTX_HOME"]
    assert said.startswith(
        f"Error: this machine cannot work for the farm now: File too large; its own files are in LTX_HOME {home}"
    )


def test_a_worker_stays_the_one_of_its_folder_when_all_in_there_is_removed(farm_env):
    first = farm_env.start_worker("one", "--no-op")
    home = farm_env.folder / "worker-one"
    for path in home.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused = farm_env.launch_worker("one")
    assert refused.wait(120) == 69
    assert ltx_worker(farm_env, "status").stdout == f"running, process {first.pid}\n"
    with farm_env.connect() as farm:
        *_, last = farm.watch(farm.submit(GenerationRequest(prompt=PROMPT, num_steps=2, seed=1)).id)
        assert last.snapshot.status is Status.DONE
        assert len(farm.workers()) == 1
    assert ltx_worker(farm_env, "stop").returncode == 0
    assert first.wait(120) == 0
