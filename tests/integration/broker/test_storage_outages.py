"""Test storage and attempts with real processes: shares that disappear, workers that stay away, reused numbers."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from ltx_client.protocol.file_names import RESULT_FILES
from ltx_client.protocol.state import Status
from ltx_client.shared.storage.marker import MARKER
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, ltx_here, ltx_inside, wait_until
from tests.integration.faults.harness import BreakableFarm
from tests.storages import made

SOME = GenerationRequest(prompt=PROMPT, num_steps=20, seed=1)
SMALL = GenerationRequest(prompt=PROMPT, width=64, height=64, num_frames=9, num_steps=2, seed=1)


def unmount(share):
    """Replace a share by the empty folder under its mount point."""
    share.rename(share.with_name("share"))
    share.mkdir()


def mount(share):
    share.rmdir()
    share.with_name("share").rename(share)


def spool_of(farm_env, name):
    return sorted(path.name for path in (farm_env.folder / f"worker-{name}" / "spool").iterdir())


def test_a_log_that_lost_its_tail_grants_a_number_twice_and_the_committed_video_stays(farm_env, tmp_path, request):
    with farm_env.connect() as farm:
        job = farm.submit(SOME)
        (log,) = farm_env.server._folder.path.glob("appendonlydir/*.incr.aof")
        submitted = log.stat().st_size
        first = farm_env.start_worker("one", deliver_for=0.5, renew_every=0.5, resume_in_redis=0, save_every=0)
        unmount(farm_env.storage)
        wait_until(lambda: "is away" in (farm.view(job.id).snapshot.message or ""), what="the delay being told")
    first.send_signal(signal.SIGSTOP)
    request.addfinalizer(lambda: first.send_signal(signal.SIGCONT))
    farm_env.server._process.kill()
    farm_env.server._process.wait()
    os.truncate(log, submitted)
    mount(farm_env.storage)
    farm_env.restart_server()
    with farm_env.connect() as farm:
        farm_env.start_worker("two", reap_every=0.5)
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt, last.snapshot.worker_name) == (Status.DONE, 1, "two")
        (kept,) = spool_of(farm_env, "one")
        result = last.snapshot.result
        assert kept.rpartition(".")[0] == result.video.rsplit(".", 2)[0] == f"{job.id}.1"
        first.send_signal(signal.SIGCONT)
        wait_until(lambda: not spool_of(farm_env, "one"), what="the stale attempt's end")
        ltx_here("download", job.id, "-o", tmp_path / "a.mp4", env=farm_env.env)
        assert farm.view(job.id).snapshot == last.snapshot
    files = {path.name for path in farm_env.storage.iterdir() if path.is_file()}
    assert files == {MARKER, *result.files.values()}
    for folder in ("work", "spool"):
        assert list((farm_env.folder / "worker-one" / folder).iterdir()) == []


def test_a_share_that_is_unmounted_under_a_worker_gets_the_video_when_it_is_back(farm_env, tmp_path):
    farm_env.start_worker("one", "--no-op", deliver_for=0.5, renew_every=0.5)
    with farm_env.connect() as farm:
        unmount(farm_env.storage)
        job = farm.submit(SMALL)
        wait_until(lambda: "is away" in (farm.view(job.id).snapshot.message or ""), what="the delay being told")
        assert list(farm_env.storage.iterdir()) == []
        assert farm.view(job.id).snapshot.status is Status.RUNNING

        picture = tmp_path / "picture.png"
        picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        refused = ltx_inside("submit", PROMPT, "--image", picture, env=farm_env.env)
        assert refused.returncode == 69
        assert "is away" in refused.stderr
        assert f"ltx storage init {farm_env.storage}" in refused.stderr
        removing = ltx_inside("gc", "--older-than", "0h", "--yes", env=farm_env.env)
        assert (removing.returncode, "is away" in removing.stderr) == (69, True)
        examined = ltx_inside("doctor", env=farm_env.env)
        assert "is away" in examined.stdout
        assert "mount the farm's share" in examined.stdout
        assert list(farm_env.storage.iterdir()) == []

        mount(farm_env.storage)
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
        ltx_here("download", job.id, "-o", tmp_path / "a.mp4", env=farm_env.env)
        assert len(farm.jobs()) == 1


def test_a_worker_with_another_farms_storage_takes_no_jobs_and_every_doctor_says_so(farm_env, tmp_path):
    made(tmp_path / "theirs")
    farm_env.start_worker("one", "--no-op")
    right, farm_env.env["LTX_STORAGE_URL"] = farm_env.env["LTX_STORAGE_URL"], str(tmp_path / "theirs")
    farm_env.start_worker("two", "--no-op")
    doctor = ltx_inside("doctor", env=farm_env.env)
    assert doctor.returncode == 1
    assert "not all have the same storage" in doctor.stdout
    farm_env.env["LTX_STORAGE_URL"] = right
    doctor = ltx_inside("doctor", env=farm_env.env)
    assert doctor.returncode == 1
    assert "of this machine, one" in doctor.stdout and "of two" in doctor.stdout
    assert "is not that of worker one" in (farm_env.folder / "two.log").read_text()
    with farm_env.connect() as farm:
        jobs = [farm.submit(dataclasses.replace(SMALL, seed=seed)) for seed in range(4)]
        for job in jobs:
            *_, last = farm.watch(job.id)
            assert (last.snapshot.status, last.snapshot.worker_name) == (Status.DONE, "one")
        states = {worker.name: worker.state for worker in farm.workers()}
        assert states["two"] == "paused"
        assert len({worker.storage for worker in farm.workers()}) == 2
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == [MARKER]


def test_a_worker_does_not_start_before_its_share_nor_makes_the_folder(farm_env):
    farm_env.storage.rename(farm_env.folder / "share")
    env = {**farm_env.env, "LTX_HOME": str(farm_env.folder / "home")}
    for make in (lambda: None, farm_env.storage.mkdir):
        make()
        started = ltx_worker("start", env=env)
        assert started.returncode == 69
        assert f"run once: ltx storage init {farm_env.storage}" in started.stderr
        assert started.stderr.count("\n") == 1
    assert list(farm_env.storage.iterdir()) == []


def ltx_worker(*arguments, env):
    return subprocess.run(
        [sys.executable, "-m", "ltx_worker", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def breakable(tmp_path, clean_env):
    farm = BreakableFarm(tmp_path / "farm", clean_env, sweep_every=0.5)
    yield farm
    farm.close()


def test_what_a_worker_has_stored_that_never_comes_back_is_swept(breakable):
    first = breakable.add_worker("one")
    breakable.await_workers()
    job = breakable.submit(hold="committing")
    breakable.await_held_or_let_go(job.id, "committing")
    orphans = {path.name for path in breakable.storage.glob(f"{job.id}.*")}
    assert len(orphans) == len(RESULT_FILES)
    first.kill()
    breakable.release(job.id, "committing")
    breakable.add_worker("two")
    wait_until(lambda: breakable.view(job.id).snapshot.status is Status.DONE, what="the job's end")
    result = breakable.view(job.id).snapshot.result
    assert result.video not in orphans
    wait_until(
        lambda: {path.name for path in breakable.storage.iterdir()} == {MARKER, *result.files.values()},
        what="the sweep",
    )
