"""Test a machine with a fault and one without.

Every job is done, the machine says what is wrong with it, and it takes jobs again when that is over. If it is the only
machine, the job waits.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import imageio_ffmpeg
import pytest

from ltx_client.farm.broker import connect
from ltx_client.protocol.events import Result
from ltx_client.protocol.file_names import SIDECAR, VIDEO
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import PAUSED
from ltx_client.shared.storage.store import Storage
from ltx_models.request import GenerationRequest
from ltx_worker.attempt.delivery import Delivery, Spool
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.ledger.ledger import Ledger
from tests.integration.conftest import PROMPT, ltx_here, wait_until

WHILE_BROKEN = """
import os, sys
if "ltx_worker.engine" in sys.orig_argv:
    import mlx.core as mx
    from ltx_models.errors import CheckpointError
    from ltx_models.pipeline.text_to_video import LTXPipeline
    from ltx_models.transformers.ltxv import Transformer

    def load(self, *args, well=LTXPipeline.load_models, **options):
        if os.path.exists("{flag}") and "{what}" == "model":
            raise CheckpointError("the checkpoint is truncated")
        well(self, *args, **options)

    def predict(self, *args, well=Transformer.__call__, **options):
        velocity = well(self, *args, **options)
        broken = os.path.exists("{flag}") and "{what}" == "numbers"
        return velocity * float("nan") if broken else velocity

    LTXPipeline.load_models = load
    Transformer.__call__ = predict
"""


@dataclass
class Break:
    """What is broken on a machine, and how; `says` is the machine's message then."""

    says: str
    strike: object
    mend: object
    env: dict = field(default_factory=dict)


@pytest.fixture
def disk(farm_env):
    """Give the worker a small disk of its own, which a file fills."""
    home = farm_env.folder / "worker-bad"
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "ltx-test", str(home)]
    if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")

    def fill():
        with contextlib.suppress(OSError), (home / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    yield Break("No space left on device", fill, (home / "filler").unlink)
    farm_env.stop_workers()
    subprocess.run(["umount", "-l", str(home)], check=True)


@pytest.fixture
def ffmpeg(farm_env):
    """Remove ffmpeg."""
    program, away = farm_env.folder / "ffmpeg", farm_env.folder / "ffmpeg-away"
    program.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    return Break(
        "ffmpeg could not be started",
        lambda: program.rename(away),
        lambda: away.rename(program),
        {"IMAGEIO_FFMPEG_EXE": str(program)},
    )


@pytest.fixture
def temporary(farm_env):
    """Remove the folder for temporary files."""
    folder = farm_env.folder / "temporary"
    folder.mkdir()
    return Break("No such file or directory", lambda: shutil.rmtree(folder), folder.mkdir, {"TMPDIR": str(folder)})


@pytest.fixture
def model(farm_env):
    """Make the model impossible to load, from the worker's start on."""
    broken = _while_broken(farm_env, "model", "the checkpoint is truncated")
    broken.strike()
    broken.strike = lambda: None
    return broken


def _while_broken(farm_env, what, says):
    folder = farm_env.folder / f"site-{what}"
    folder.mkdir()
    flag = folder / "broken"
    (folder / "sitecustomize.py").write_text(WHILE_BROKEN.format(flag=flag, what=what))
    return Break(says, flag.touch, flag.unlink, {"PYTHONPATH": str(folder)})


def start(farm_env, name, env=(), **settings):
    healthy = farm_env.env
    farm_env.env = {**healthy, **dict(env)}
    try:
        return farm_env.start_worker(name, reap_every=0.5, **settings)
    finally:
        farm_env.env = healthy


def submit(farm, seed=1):
    request = GenerationRequest(prompt=PROMPT, width=64, height=64, num_frames=9, num_steps=2, seed=seed)
    return farm.submit(request)


def worker_named(farm, name):
    return next(worker for worker in farm.workers() if worker.name == name)


def snapshot_at_the_end(farm, job):
    *_, last = farm.watch(job.id)
    return last.snapshot


@pytest.mark.parametrize(("broken", "more"), [("disk", 11), ("ffmpeg", 1), ("model", 1)])
def test_a_machine_with_a_fault_fails_no_job_says_so_and_comes_back(farm_env, request, broken, more):
    broken = request.getfixturevalue(broken)
    start(farm_env, "bad", broken.env)
    with farm_env.connect() as farm:
        broken.strike()
        first = submit(farm)
        bad = wait_until(lambda: (w := worker_named(farm, "bad")).state == PAUSED and w, what="the pause")
        assert broken.says in bad.why_paused
        assert not bad.serves(first)
        # The heartbeat publishes the pause, the attempt puts its job back: either may be first.
        waiting = wait_until(
            lambda: (s := farm.view(first.id).snapshot).status is Status.QUEUED and s, what="the job to be put back"
        )
        assert broken.says in waiting.message
        said = ltx_here("workers", env=farm_env.env).stderr
        assert "bad is paused: " in said
        assert broken.says in said
        assert "bad is paused: " in ltx_here("doctor", env=farm_env.env).stdout
        good = start(farm_env, "good")
        jobs = [first, *(submit(farm, seed) for seed in range(2, 2 + more))]
        for job in jobs:
            snapshot = snapshot_at_the_end(farm, job)
            assert (snapshot.status, snapshot.worker_name) == (Status.DONE, "good"), snapshot.error
        good.terminate()
        good.wait(120)
        broken.mend()
        wait_until(lambda: worker_named(farm, "bad").state == "idle", what="its coming back")
        snapshot = snapshot_at_the_end(farm, submit(farm, seed=20))
        assert (snapshot.status, snapshot.worker_name) == (Status.DONE, "bad"), snapshot.error


def test_on_the_only_machine_the_job_waits_for_the_end_of_the_fault(farm_env, temporary):
    start(farm_env, "bad", temporary.env)
    with farm_env.connect() as farm:
        snapshot_at_the_end(farm, submit(farm))  # from now on the engine has its folder
        temporary.strike()
        job = submit(farm)
        bad = wait_until(lambda: (w := worker_named(farm, "bad")).state == PAUSED and w, what="the pause")
        assert temporary.says in bad.why_paused
        with pytest.raises(AssertionError):
            wait_until(lambda: farm.view(job.id).snapshot.ended, timeout=4)
        assert farm.view(job.id).snapshot.attempt == 1, "it was tried while the fault was there"
        temporary.mend()
        snapshot = snapshot_at_the_end(farm, job)
        assert (snapshot.status, snapshot.attempt) == (Status.DONE, 2)


def test_numbers_that_are_none_on_one_machine(farm_env):
    broken = _while_broken(farm_env, "numbers", "NaN")
    broken.strike()
    good = start(farm_env, "good", heartbeat_every=60)
    good.send_signal(signal.SIGSTOP)  # it counts as alive meanwhile
    start(farm_env, "bad", broken.env)
    with farm_env.connect() as farm:
        job = submit(farm)
        wait_until(lambda: "NaN or infinite" in (farm.view(job.id).snapshot.message or ""), what="the finding")
        good.send_signal(signal.SIGCONT)
        snapshot = snapshot_at_the_end(farm, job)
        assert (snapshot.status, snapshot.worker_name, snapshot.attempt) == (Status.DONE, "good", 2), snapshot.error


def test_numbers_that_are_none_on_every_machine(farm_env):
    broken = _while_broken(farm_env, "numbers", "NaN")
    broken.strike()
    for name in ("one", "two"):
        start(farm_env, name, broken.env)
    with farm_env.connect() as farm:
        snapshot = snapshot_at_the_end(farm, submit(farm))
        assert (snapshot.status, snapshot.attempt) == (Status.FAILED, 2)
        sentence = "the latents of step 1 of 2 came out as NaN or infinite values, on a second machine too"
        assert sentence in snapshot.error
        broken.mend()
        assert snapshot_at_the_end(farm, submit(farm)).status is Status.DONE


def test_a_picture_that_has_ffmpeg_crash_everywhere_pauses_no_machine_for_long(farm_env, tmp_path):
    """ffmpeg dies for jobs of one size, on each machine; the others are done, and that one ends as failed."""
    program = farm_env.folder / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    program.write_text(f'#!/bin/sh\ncase "$*" in *96x96*) kill -SEGV $$;; esac\nexec {real} "$@"\n')
    program.chmod(0o755)
    for name in ("one", "two"):
        start(farm_env, name, {"IMAGEIO_FFMPEG_EXE": str(program)}, hand_on=0.5)
    with farm_env.connect() as farm:
        request = GenerationRequest(prompt=PROMPT, width=96, height=96, num_frames=9, num_steps=2, seed=1)
        hostile = farm.submit(request)
        for seed in range(6):
            assert snapshot_at_the_end(farm, submit(farm, seed)).status is Status.DONE
            assert {worker.state for worker in farm.workers()} != {PAUSED}
        assert snapshot_at_the_end(farm, hostile).status is Status.FAILED
        assert "8 attempts" in farm.view(hostile.id).snapshot.error
        assert snapshot_at_the_end(farm, submit(farm)).status is Status.DONE
        assert Path(program).exists()


def test_a_worker_that_starts_on_a_full_disk_delivers_its_spool_and_waits_for_room(farm_env, disk):
    home = farm_env.folder / "worker-bad"
    start(farm_env, "bad").terminate()
    farm_env.stop_workers()
    with connect(farm_env.server.address.url) as client, farm_env.connect() as farm:
        ledger, storage = Ledger(client, Names(), 60), Storage(str(farm_env.storage))
        finished, waiting = submit(farm), submit(farm, seed=2)
        attempt = ledger.claim(finished.id, "a-worker", "bad")
        video, sidecar = home / "video.mp4", home / "sidecar.json"
        video.write_bytes(bytes(10**6))
        sidecar.write_text("{}")
        sha256 = hashlib.sha256(bytes(10**6)).hexdigest()
        result = Result(video=f"{attempt.name}.mp4", sidecar=f"{attempt.name}.json", size=10**6, sha256=sha256)
        points = ResumePoints(ledger, storage, home / "work", 0)
        spool = Spool(home / "spool", storage, ledger, points, retry_for=0, look_every=1)
        delivery = Delivery(job_id=finished.id, attempt=attempt.number, token=attempt.token, result=result)
        spool._take(delivery, {VIDEO: video, SIDECAR: sidecar})
        disk.strike()
        start(farm_env, "bad", renew_every=1)
        bad = wait_until(lambda: (w := worker_named(farm, "bad")).state == PAUSED and w, what="the pause")
        assert disk.says in bad.why_paused
        snapshot = snapshot_at_the_end(farm, finished)
        assert (snapshot.status, snapshot.attempt, snapshot.result.size) == (Status.DONE, 1, 10**6)
        wait_until(lambda: not list((home / "spool").iterdir()), what="the room that it took")
        disk.mend()
        wait_until(lambda: worker_named(farm, "bad").state != PAUSED, what="its coming back")
        assert snapshot_at_the_end(farm, waiting).status is Status.DONE
