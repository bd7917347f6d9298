"""Test the whole path with real processes: submit, events, previews, MP4, sidecar, cancel, races, hand-over."""

import hashlib
import json
import signal
import threading

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol import events
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Snapshot, Status, apply
from ltx_client.shared.storage.marker import MARKER
from ltx_models.families.variants import find_variant
from ltx_models.request import GenerationRequest
from ltx_worker.engine.messages import Decoded, Render
from ltx_worker.engine.supervisor import Engine
from ltx_worker.ledger.ledger import Claim, Ledger, Refusal
from tests.clips import read_clip
from tests.integration.conftest import PROMPT, ltx, ltx_here, processes_of, start_ltx, wait_until

NAMES = Names()


def first_step(farm, job_id):
    """Wait until the job has made a step."""
    for update in farm.watch(job_id):
        if isinstance(update.event, events.Stepped):
            return update
    raise AssertionError("the job ended without a step")


@pytest.mark.lane("quick")
def test_a_prompt_becomes_an_mp4(farm_env, tmp_path):
    farm_env.start_worker()
    out = tmp_path / "ball.mp4"
    done = ltx("render", PROMPT, "--seed", 3, "-o", out, "--preview", tmp_path / "now.jpg", env=farm_env.env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert "step 7/8" in done.stderr

    clip = read_clip(out)
    assert clip.frames.shape == (25, 128, 128, 3)
    assert clip.frame_rate == 12
    assert "h264" in clip.header
    with Image.open(tmp_path / "now.jpg") as preview:
        assert (preview.format, preview.size) == ("JPEG", (128, 128))

    with farm_env.connect() as farm:
        (view,) = farm.jobs()
        updates = [update for update in farm.watch(view.job.id) if update.event]
    log = [update.event for update in updates]
    assert [update.snapshot.seq for update in updates] == list(range(1, len(log) + 1))
    assert [event.step for event in log if isinstance(event, events.Stepped)] == list(range(1, 9))
    assert [event.step for event in log if isinstance(event, events.Previewed)] == [3, 6]
    assert [type(log[0]), type(log[-1])] == [events.Claimed, events.Done]
    replayed = Snapshot()
    for event in log:
        replayed = apply(replayed, event)
    assert replayed == view.snapshot

    sidecar = json.loads((farm_env.storage / view.snapshot.result.sidecar).read_text())
    assert sidecar["job"]["request"]["seed"] == 3
    assert sidecar["video"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() == view.snapshot.result.sha256
    assert len(sidecar["checkpoint_sha256"]) == 64
    with Image.open(farm_env.storage / view.snapshot.result.poster) as poster:
        assert (poster.format, poster.size) == ("JPEG", (128, 128))
        differences = np.abs(np.asarray(poster, int) - clip.frames).mean((1, 2, 3))
        assert differences[12] == differences.min() < 3, "it is the middle frame"
    with farm_env.connect() as farm:
        jpeg = farm.poster(view.job.id)
        assert hashlib.sha256(jpeg).hexdigest() == view.snapshot.result.poster_sha256
        again = farm.submit(
            TypeAdapter(GenerationRequest).validate_python(sidecar["request"]), variant=sidecar["variant"]
        )
        *_, last = farm.watch(again.id)
    assert last.snapshot.result.sha256 == view.snapshot.result.sha256, "the sidecar has all that made the video"
    assert last.snapshot.result.poster_sha256 == view.snapshot.result.poster_sha256
    for name in last.snapshot.result.files.values():
        (farm_env.storage / name).unlink()
    assert set(sidecar["seconds"]) == {"text", "denoise", "decode", "encode"}
    stored = {path.name for path in farm_env.storage.iterdir()}
    assert stored == {*view.snapshot.result.files.values(), MARKER}
    assert len(stored) == 4


def test_the_same_seed_gives_the_same_frames_and_another_does_not(farm_env, tmp_path):
    farm_env.start_worker()
    clips = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        out = tmp_path / f"{name}.mp4"
        ltx_here("render", PROMPT, "--seed", seed, "-o", out, env=farm_env.env)
        clips.append(read_clip(out).frames)
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_what_was_asked_for_is_what_is_rendered(farm_env, tmp_path):
    farm_env.start_worker()
    out = tmp_path / "wide.mp4"
    options = ["--width", 160, "--height", 96, "--frames", 17, "--fps", 24, "--steps", 2, "--checkpoint-every", 1]
    ltx_here("render", PROMPT, *options, "-o", out, env=farm_env.env)
    clip = read_clip(out)
    assert clip.frames.shape == (17, 96, 160, 3)
    assert clip.frame_rate == 24


def test_cancel_stops_a_render_in_the_middle_and_the_worker_goes_on(farm_env, slow_request):
    farm_env.start_worker()
    with farm_env.connect() as farm:
        job = farm.submit(slow_request)
        first_step(farm, job.id)
        ltx_here("cancel", job.id[-12:], env=farm_env.env)
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.CANCELLED
        assert last.snapshot.step < slow_request.num_steps
        again = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        *_, last = farm.watch(again.id)
        assert last.snapshot.status is Status.DONE
    assert len(list(farm_env.storage.glob(f"{job.id}*"))) == 0


def test_a_queued_job_that_is_cancelled_never_runs(farm_env):
    with farm_env.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT))
        assert farm.cancel(job.id) is Status.QUEUED
        assert farm.view(job.id).status is Status.CANCELLED
        list(farm.watch(job.id))  # ends although no worker is there
        farm_env.start_worker("one", "--no-op")
        wait_until(lambda: farm.view(job.id).snapshot.status is Status.CANCELLED, what="the worker ending the job")
        assert farm.view(job.id).snapshot.attempt == 0


def test_two_workers_race_for_one_job_and_one_renders_it(farm_env):
    farm_env.start_worker("one")
    farm_env.start_worker("two")
    with farm_env.connect() as farm:
        job = prepare(GenerationRequest(prompt=PROMPT, num_steps=20, seed=1)).job
        farm.send(job)
        for _ in range(3):  # a message means "look at this job": more of them change nothing
            farm.send(job)
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.DONE
        assert last.snapshot.attempt == 1
        log = [update.event for update in farm.watch(job.id) if update.event]
        assert sum(isinstance(event, events.Claimed) for event in log) == 1
        assert sum(isinstance(event, events.Stepped) for event in log) == 20
    assert len(list(farm_env.storage.glob("*.mp4"))) == 1


@pytest.mark.lane("quick")
def test_of_many_claims_at_once_one_is_granted(farm_env):
    with farm_env.connect() as farm:
        for _ in range(30):
            job = prepare(GenerationRequest(prompt=PROMPT)).job
            ClientLedger(farm._client, NAMES).submit(job)
            barrier, answers = threading.Barrier(8), []

            def claim(name, job_id=job.id, barrier=barrier, answers=answers):
                with farm_env.server.address.connect() as client:
                    ledger = Ledger(client, NAMES)
                    barrier.wait()
                    answers.append(ledger.claim(job_id, name, name))

            threads = [threading.Thread(target=claim, args=(str(number),)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(isinstance(answer, Claim) for answer in answers) == 1
            assert answers.count(Refusal.LEASED) == 7


RESUMED_STEPS = 60


@pytest.fixture
def resumed_request():
    return GenerationRequest(prompt=PROMPT, num_steps=RESUMED_STEPS, seed=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the frames of a render that was not interrupted, by an engine of its own."""
    engine, video = Engine("pocket"), tmp_path_factory.mktemp("undisturbed") / "video.mp4"
    request = GenerationRequest(prompt=PROMPT, num_steps=RESUMED_STEPS, seed=1).resolve(find_variant("pocket"))
    try:
        *_, last = engine.render(lambda _: Render(request=request, checkpoint_every=0, output=video), lambda: False)
        assert isinstance(last, Decoded)
        engine.video.result()
    finally:
        engine.close()
    return read_clip(video).frames


def reach(farm, job_id, step):
    for update in farm.watch(job_id):
        if isinstance(update.event, events.Stepped) and update.event.step >= step:
            return


def engines_of(folder):
    return [process for process in processes_of(folder) if "ltx_worker.engine" in process.cmdline()]


def assert_resumed(farm_env, farm, job_id, undisturbed, attempts):
    *_, last = farm.watch(job_id)
    assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, attempts)
    log = [update.event for update in farm.watch(job_id) if update.event]
    (resumed,) = [event for event in log if isinstance(event, events.Resumed)]
    assert 20 <= resumed.step < RESUMED_STEPS
    assert last.snapshot.lost_steps < 20
    assert [path.name for path in farm_env.storage.glob(f"{job_id}*.mp4")] == [last.snapshot.result.video]
    assert last.snapshot.result.video.startswith(f"{job_id}.{attempts}.")
    assert np.array_equal(read_clip(farm_env.storage / last.snapshot.result.video).frames, undisturbed)


def test_a_worker_that_is_stopped_gives_its_job_to_the_next(farm_env, resumed_request, undisturbed):
    first = farm_env.start_worker("one", save_every=0)
    with farm_env.connect() as farm:
        job = farm.submit(resumed_request)
        reach(farm, job.id, 30)
        first.send_signal(signal.SIGTERM)
        assert first.wait(120) == 0
        view = farm.view(job.id)
        assert (view.status, view.snapshot.attempt) == (Status.QUEUED, 1)
        assert "shutting down" in view.snapshot.message
        farm_env.start_worker("two", save_every=0)
        assert_resumed(farm_env, farm, job.id, undisturbed, attempts=2)


@pytest.mark.parametrize("resume_in_redis", [8_000_000, 0], ids=["saved-in-redis", "saved-in-storage"])
def test_a_worker_that_is_killed_costs_a_lease_and_not_the_render(
    farm_env, resumed_request, undisturbed, resume_in_redis
):
    settings = {"save_every": 0, "lease": 3, "renew_every": 1, "reap_every": 1, "resume_in_redis": resume_in_redis}
    first = farm_env.start_worker("one", **settings)
    with farm_env.connect() as farm:
        job = farm.submit(resumed_request)
        reach(farm, job.id, 30)
        first.kill()
        first.wait()
        files = list((farm_env.storage / "resume").glob(f"{job.id}.1.*"))
        assert len(files) == (0 if resume_in_redis else 2)
        farm_env.start_worker("two", **settings)
        assert_resumed(farm_env, farm, job.id, undisturbed, attempts=2)
        wait_until(lambda: not list((farm_env.storage / "resume").glob("*")), what="the files being removed")


def test_an_engine_that_is_killed_is_replaced_and_its_render_goes_on(farm_env, resumed_request, undisturbed):
    farm_env.start_worker(save_every=0)
    with farm_env.connect() as farm:
        job = farm.submit(resumed_request)
        reach(farm, job.id, 30)
        engines_of(farm_env.folder)[0].kill()
        assert_resumed(farm_env, farm, job.id, undisturbed, attempts=2)


def test_a_job_that_kills_its_engine_twice_fails_with_a_reason(farm_env, slow_request):
    farm_env.start_worker(save_every=1000)  # nothing is saved, and the second gets less far: nothing is gained
    with farm_env.connect() as farm:
        job = farm.submit(slow_request)
        for update in farm.watch(job.id):
            last_step = 20 if update.snapshot.attempt == 1 else 1
            if isinstance(update.event, events.Stepped) and update.event.step == last_step:
                engines_of(farm_env.folder)[0].kill()
        assert update.snapshot.status is Status.FAILED
        assert update.snapshot.attempt == 2
        assert "SIGKILL" in update.snapshot.error
        again = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        *_, last = farm.watch(again.id)
        assert last.snapshot.status is Status.DONE


def test_a_job_without_a_message_gets_one(farm_env):
    with farm_env.connect() as farm:
        job = prepare(GenerationRequest(prompt=PROMPT)).job
        ClientLedger(farm._client, NAMES).submit(job)  # the record is the submission; the message was lost
        farm_env.start_worker("one", "--no-op", reap_every=1)
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.DONE


def test_the_engine_does_not_outlive_a_killed_worker(farm_env, slow_request):
    worker = farm_env.start_worker()
    with farm_env.connect() as farm:
        job = farm.submit(slow_request)
        first_step(farm, job.id)
        worker.kill()
        worker.wait()
        wait_until(lambda: not engines_of(farm_env.folder), what="the engine's end")


def test_ctrl_c_without_a_terminal_cancels(farm_env, tmp_path):
    farm_env.start_worker()
    render = start_ltx("render", PROMPT, "--steps", 1000, env=farm_env.env, cwd=tmp_path)
    with farm_env.connect() as farm:
        job_id = wait_until(lambda: [view.job.id for view in farm.jobs()], what="the submission")[0]
        first_step(farm, job_id)
        render.send_signal(signal.SIGINT)
        _, said = render.communicate(timeout=120)
        assert render.returncode == 3, said
        assert f"job {job_id} was cancelled" in said
        assert farm.view(job_id).status is Status.CANCELLED
    assert list(tmp_path.glob("*.mp4")) == []


def test_commands_that_look(farm_env, tmp_path):
    farm_env.start_worker("one", "--no-op")
    env = farm_env.env
    job_id = ltx_here("submit", PROMPT, "--seed", 5, env=env).stdout.strip()
    watched = ltx_here("watch", job_id, "--json", env=env)
    lines = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["type"] == "done"
    assert "done" in ltx_here("watch", job_id, env=env).stderr

    (listed,) = json.loads(ltx_here("jobs", "--json", env=env).stdout)
    shown = json.loads(ltx_here("show", job_id[-8:], "--json", env=env).stdout)
    assert listed == shown
    assert (shown["id"], shown["status"], shown["request"]["seed"]) == (job_id, "done", 5)
    assert PROMPT in ltx_here("jobs", env=env).stdout
    assert PROMPT in ltx_here("show", job_id, env=env).stdout

    (worker,) = json.loads(ltx_here("workers", "--json", env=env).stdout)
    assert (worker["name"], worker["variant"], worker["state"]) == ("one", "pocket", "idle")
    assert "pocket" in ltx_here("workers", env=env).stdout

    fetched = ltx_here("download", job_id, "-o", tmp_path / "again.mp4", env=env)
    assert fetched.stdout.strip() == str(tmp_path / "again.mp4")
    assert (tmp_path / "again.mp4").read_bytes() == next(farm_env.storage.glob(f"{job_id}.1.*.mp4")).read_bytes()


def test_the_same_id_again_is_the_same_job(farm_env):
    farm_env.start_worker("one", "--no-op")
    arguments = ["submit", PROMPT, "--seed", 5, "--id", "night-1"]
    ltx_here(*arguments, env=farm_env.env)
    ltx_here("watch", "night-1", env=farm_env.env)
    assert ltx_here(*arguments, env=farm_env.env).stdout == "night-1\n"
    other = ltx_here("submit", "a blue ball falls on a pink background", "--id", "night-1", env=farm_env.env, code=2)
    assert "exists already" in other.stderr
    with farm_env.connect() as farm:
        assert len(farm.jobs()) == 1


def test_a_damaged_video_is_not_delivered(farm_env, tmp_path):
    farm_env.start_worker("one", "--no-op")
    job_id = ltx_here("submit", PROMPT, env=farm_env.env).stdout.strip()
    ltx_here("watch", job_id, env=farm_env.env)
    (video,) = farm_env.storage.glob(f"{job_id}.1.*.mp4")
    video.write_bytes(video.read_bytes()[:-3])
    fetched = ltx_here("download", job_id, "-o", tmp_path / "out.mp4", env=farm_env.env, code=69)
    assert "SHA-256 differs" in fetched.stderr
    video.unlink()
    fetched = ltx_here("download", job_id, "-o", tmp_path / "out.mp4", env=farm_env.env, code=69)
    assert "LTX_STORAGE_URL" in fetched.stderr
    assert not list(tmp_path.glob("*out.mp4*"))


def test_submit_warns_when_nobody_serves_the_job(farm_env):
    submitted = ltx_here("submit", PROMPT, env=farm_env.env)
    assert "no live worker serves pocket.1" in submitted.stderr


@pytest.mark.parametrize("command", ["show", "cancel", "download", "watch"])
def test_an_unknown_job_is_a_sentence(farm_env, command):
    answered = ltx_here(command, "nosuchjob", env=farm_env.env, code=2)
    assert answered.stderr.startswith("Error: there is no job nosuchjob")
