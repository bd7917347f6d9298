"""Test a machine on which the engine dies, together with one on which it does not."""

import re
import signal

import pytest

from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import PAUSED
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, ltx_inside, wait_until
from tests.integration.farm.test_jobs import reach
from tests.integration.worker.test_stopping import ltx_worker

DIES = """
import os, sys
if "ltx_worker.engine" in sys.orig_argv and os.path.exists("{flag}"):
    import mlx.core as mx
    from ltx_models.pipeline.text_to_video import LTXPipeline

    def stream(*args, **kwargs):
        print("[METAL] Command buffer execution failed: {error}", flush=True)
        os._exit(1)

    LTXPipeline.stream = stream
"""
FAULT = "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"


@pytest.fixture
def broken(farm_env):
    """Start a worker whose engine dies with each render while the returned file exists."""

    def start(name, error=FAULT, **settings):
        folder = farm_env.folder / f"site-{name}"
        folder.mkdir()
        flag = folder / "broken"
        flag.touch()
        (folder / "sitecustomize.py").write_text(DIES.format(flag=flag, error=error))
        healthy = farm_env.env
        farm_env.env = {**healthy, "PYTHONPATH": str(folder)}
        try:
            farm_env.start_worker(name, **settings)
        finally:
            farm_env.env = healthy
        return flag

    return start


def worker_named(farm, name):
    return next(worker for worker in farm.workers() if worker.name == name)


def test_a_machine_that_fails_jobs_which_others_render_pauses_and_says_so(farm_env, broken):
    flag = broken("bad", reap_every=0.5)
    with farm_env.connect() as farm:
        jobs = [farm.submit(GenerationRequest(prompt=PROMPT, seed=seed)) for seed in range(4)]
        wait_until(lambda: farm.view(jobs[0].id).snapshot.attempt == 1, what="the first attempt")
        farm_env.start_worker("good", reap_every=0.5)
        for job in jobs:
            *_, last = farm.watch(job.id)
            assert last.snapshot.status is Status.DONE, last.snapshot.error
            assert last.snapshot.worker_name == "good"
        more = [farm.submit(GenerationRequest(prompt=PROMPT, seed=seed)) for seed in range(4, 12)]
        wait_until(lambda: worker_named(farm, "bad").state == PAUSED, what="the pause")
        for job in more:
            *_, last = farm.watch(job.id)
            assert (last.snapshot.status, last.snapshot.worker_name) == (Status.DONE, "good"), last.snapshot.error
        shown = ltx_inside("workers", env=farm_env.env)
        assert "bad is paused: 3 jobs in a row ended early here that others rendered" in shown.stderr
        assert "the GPU ran out of memory" in shown.stderr
        assert "`ltx-worker resume` on that machine makes it take jobs again" in shown.stderr
        assert re.search(
            r"bad: its last failure was [\d.]+ (s|min) ago, job [0-9a-f]{8}\S*: the render process", shown.stderr
        )
        assert "good: its last failure" not in shown.stderr
        assert "paused" in shown.stdout

        farm_env.workers[1].send_signal(signal.SIGTERM)
        farm_env.workers[1].wait(120)
        assert not any(worker.serves(jobs[0]) for worker in farm.workers())
        waiting = farm.submit(GenerationRequest(prompt=PROMPT, seed=99))
        flag.unlink()
        assert ltx_worker(farm_env, "resume", name="bad").returncode == 0
        *_, last = farm.watch(waiting.id)
        assert (last.snapshot.status, last.snapshot.worker_name) == (Status.DONE, "bad")
        wait_until(lambda: worker_named(farm, "bad").state == "idle", what="the end of the pause")


def test_a_job_is_left_to_another_machine_after_this_ones_fault(farm_env, broken):
    broken("bad", reap_every=0.5)
    farm_env.start_worker("good", reap_every=0.5)
    with farm_env.connect() as farm:
        farm_env.workers[1].send_signal(signal.SIGSTOP)
        job = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        wait_until(lambda: "ran out of memory" in (farm.view(job.id).snapshot.message or ""), what="the fault")
        farm_env.workers[1].send_signal(signal.SIGCONT)
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt, last.snapshot.worker_name) == (Status.DONE, 2, "good")


def test_a_fault_of_the_only_machine_ends_the_job_after_the_fourth(farm_env, broken):
    broken("bad", reap_every=0.5)
    with farm_env.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.FAILED, 4)
        assert "(the GPU ran out of memory)" in last.snapshot.error
        assert worker_named(farm, "bad").state != PAUSED


def test_a_death_that_may_be_the_jobs_doing_ends_it_after_the_second(farm_env, broken):
    broken("bad", error="something else", reap_every=0.5)
    with farm_env.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.FAILED, 2)
        assert "something else" in last.snapshot.error


def test_what_a_crash_cost_is_shown(farm_env):
    worker = farm_env.start_worker("one", save_every=1000, lease=2, renew_every=0.5, reap_every=0.5)
    with farm_env.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT, num_steps=100, seed=1))
        reach(farm, job.id, 10)
        worker.kill()
        worker.wait()
        farm_env.start_worker("two", reap_every=0.5)
        *_, last = farm.watch(job.id)
        lost = last.snapshot.lost_steps
        assert 10 <= lost < 100
        shown = ltx_inside("show", job.id, env=farm_env.env).stdout
        assert f"{lost}, done again since an attempt ended early" in " ".join(shown.split())
        assert f'"lost_steps": {lost}' in ltx_inside("show", job.id, "--json", env=farm_env.env).stdout
