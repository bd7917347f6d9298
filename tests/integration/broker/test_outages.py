"""Test that a render continues while the broker or the storage is down, and its result arrives afterwards."""

import signal
import subprocess
import time

import numpy as np
import pytest

from ltx_client.protocol import events
from ltx_client.protocol.state import Stage, Status
from ltx_models.request import GenerationRequest
from tests.clips import read_clip
from tests.integration.conftest import PROMPT, wait_until
from tests.integration.farm.test_jobs import reach
from tests.storages import made


@pytest.fixture
def request_of_a_moment():
    return GenerationRequest(prompt=PROMPT, num_steps=40, seed=1)


def finish(farm, job_id):
    *_, last = farm.watch(job_id)
    return last


def frames_of(farm_env, snapshot):
    return read_clip(farm_env.storage / snapshot.result.video).frames


def assert_one_whole_video(farm_env, farm, job_id, steps):
    last = finish(farm, job_id)
    assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
    log = [update for update in farm.watch(job_id) if update.event]
    assert [update.snapshot.seq for update in log] == list(range(1, len(log) + 1))
    assert [u.event.step for u in log if isinstance(u.event, events.Stepped)] == list(range(1, steps + 1))
    assert [path.name for path in farm_env.storage.glob("*.mp4")] == [last.snapshot.result.video]
    assert frames_of(farm_env, last.snapshot).shape == (25, 128, 128, 3)


def test_a_broker_that_is_frozen_in_the_middle(farm_env, request_of_a_moment):
    farm_env.start_worker(lease=5, renew_every=1, reap_every=1)
    with farm_env.connect() as farm:
        job = farm.submit(request_of_a_moment)
        reach(farm, job.id, 5)
        farm_env.server._process.send_signal(signal.SIGSTOP)
        time.sleep(8)
        farm_env.server._process.send_signal(signal.SIGCONT)
    with farm_env.connect() as farm:
        assert_one_whole_video(farm_env, farm, job.id, 40)


def test_a_broker_that_is_killed_and_comes_back_when_the_render_is_over(farm_env, request_of_a_moment):
    farm_env.start_worker(lease=5, renew_every=1, reap_every=1)
    with farm_env.connect() as farm:
        job = farm.submit(request_of_a_moment)
        reach(farm, job.id, 5)
    farm_env.server._process.kill()
    farm_env.server._process.wait()
    time.sleep(8)  # longer than the rest of the render, and than the lease
    farm_env.restart_server()
    with farm_env.connect() as farm:
        assert_one_whole_video(farm_env, farm, job.id, 40)


def test_every_connection_cut_again_and_again(farm_env):
    farm_env.start_worker(lease=5, renew_every=1, reap_every=1)
    with farm_env.connect() as farm, farm_env.server.address.connect() as admin:
        job = farm.submit(GenerationRequest(prompt=PROMPT, num_steps=100, seed=1))
        reach(farm, job.id, 2)
        for _ in range(20):
            admin.client_kill_filter(_type="normal", skipme=True)
            admin.client_kill_filter(_type="pubsub", skipme=True)
            time.sleep(0.2)
    with farm_env.connect() as farm:
        assert_one_whole_video(farm_env, farm, job.id, 100)


@pytest.fixture
def storage_away(farm_env):
    """Return two functions: one takes the storage away, like a share that is not mounted; one brings it back."""
    hidden = farm_env.storage.with_name("hidden")

    def take():
        farm_env.storage.mkdir(exist_ok=True)
        farm_env.storage.rename(hidden)
        farm_env.storage.write_text("not a folder")

    def bring_back():
        farm_env.storage.unlink()
        hidden.rename(farm_env.storage)

    return take, bring_back


def test_a_storage_that_is_away_keeps_the_video_on_the_worker_and_the_next_job_runs(
    farm_env, storage_away, request_of_a_moment
):
    take, bring_back = storage_away
    farm_env.start_worker(lease=5, renew_every=1, reap_every=1, deliver_for=1)
    with farm_env.connect() as farm:
        first = farm.submit(request_of_a_moment)
        reach(farm, first.id, 5)
        take()
        second = farm.submit(request_of_a_moment)
        for job in (first, second):
            wait_until(
                lambda job=job: "waiting to be delivered" in (farm.view(job.id).snapshot.message or ""),
                what="the job saying so",
            )
        assert farm.view(first.id).snapshot.stage is Stage.UPLOADING
        time.sleep(6)  # longer than the lease: the worker keeps it
        bring_back()
        snapshots = [finish(farm, job.id).snapshot for job in (first, second)]
        assert [(snapshot.status, snapshot.attempt) for snapshot in snapshots] == [(Status.DONE, 1)] * 2
        assert np.array_equal(*(frames_of(farm_env, snapshot) for snapshot in snapshots))
    spool = farm_env.folder / "worker-one" / "spool"
    wait_until(lambda: not list(spool.iterdir()), what="the spool being empty")  # which is after the commit


def test_a_video_in_the_spool_survives_the_worker(farm_env, storage_away, request_of_a_moment):
    take, bring_back = storage_away
    worker = farm_env.start_worker(deliver_for=1)
    with farm_env.connect() as farm:
        take()
        job = farm.submit(request_of_a_moment)
        wait_until(lambda: "waiting" in (farm.view(job.id).snapshot.message or ""), what="the job saying so")
        worker.kill()
        worker.wait()
        bring_back()
        farm_env.start_worker(deliver_for=1)
        last = finish(farm, job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)


def test_a_video_in_the_spool_can_be_cancelled(farm_env, storage_away, request_of_a_moment):
    take, bring_back = storage_away
    farm_env.start_worker(renew_every=1, deliver_for=1)
    with farm_env.connect() as farm:
        take()
        job = farm.submit(request_of_a_moment)
        wait_until(lambda: "waiting" in (farm.view(job.id).snapshot.message or ""), what="the job saying so")
        farm.cancel(job.id)
        assert finish(farm, job.id).snapshot.status is Status.CANCELLED
        bring_back()
    spool = farm_env.folder / "worker-one" / "spool"
    wait_until(lambda: not list(spool.iterdir()), what="the spool being empty")
    assert list(farm_env.storage.glob("*.mp4")) == []


def test_a_full_storage(farm_env, request_of_a_moment):
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", farm_env.storage]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small filesystem can be mounted here; tests/unit/client/shared has a stand-in")
    try:
        made(farm_env.storage)
        marker = list(farm_env.storage.iterdir())
        farm_env.start_worker(renew_every=1, deliver_for=1)
        with farm_env.connect() as farm:
            job = farm.submit(request_of_a_moment)
            wait_until(lambda: "No space left" in (farm.view(job.id).snapshot.message or ""), what="the job saying so")
            wait_until(lambda: list(farm_env.storage.iterdir()) == marker, what="no part of it staying after a try")
            subprocess.run(["mount", "-o", "remount,size=4m", farm_env.storage], check=True)
            assert finish(farm, job.id).snapshot.status is Status.DONE
    finally:
        farm_env.stop_workers()
        subprocess.run(["umount", farm_env.storage], check=True)
