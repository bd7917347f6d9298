"""Test a day of a farm of one Mac, as its users spend it: every step is a command in a process of its own."""

import hashlib
import json
from importlib import metadata

import numpy
import pytest
from PIL import Image

from ltx_client.protocol.state import Status
from tests.clips import read_clip
from tests.integration.conftest import ltx, start_ltx, wait_until
from tests.integration.worker.test_stopping import ltx_worker

COLOURS = ("red", "green", "blue", "yellow", "white", "purple")
PROMPTS = [f"a {colour} ball rolls to the right on a navy background" for colour in COLOURS] + [
    f"a {colour} square falls on a grey background" for colour in COLOURS
]
SMALL = ("--width", 96, "--height", 96, "--frames", 9, "--steps", 8)
CANCELLED, UNDECIDED = 24, (22, 23)
"""Places in the batch."""
NEXT = "99.0"


@pytest.fixture
def day(farm_env, tmp_path):
    """Run a command as one of the farm's people, and check its exit code."""

    def run(*arguments, code=0):
        done = ltx(*arguments, env=farm_env.env, cwd=tmp_path)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def upgrade(farm_env):
    """Change what `pip install --upgrade` would change as far as the farm can see: the installed version."""
    installed = farm_env.folder / "site" / f"ltx_farm-{NEXT}.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ltx-farm\nVersion: {NEXT}\n")
    as_before = farm_env.env
    farm_env.env = {**as_before, "PYTHONPATH": str(installed.parent)}
    try:
        return farm_env.start_worker("mac-1", reap_every=0.5)
    finally:
        farm_env.env = as_before


def test_a_day_in_the_life(farm_env, day, tmp_path):
    # The operator sets the Mac up.
    for platform, file in (("darwin", "farm.ltx.worker.plist"), ("linux", "ltx-farm-worker.service")):
        planned = ltx_worker(farm_env, "install", "--dry-run", "--platform", platform, name="mac-1")
        assert planned.returncode == 0, planned.stderr
        assert file in planned.stdout
        assert farm_env.server.address.password not in planned.stdout + planned.stderr
    examined = ltx_worker(farm_env, "doctor", "--quick", name="mac-1")
    assert examined.returncode == 0, examined.stdout
    assert "failure" not in examined.stdout
    worker = farm_env.start_worker("mac-1", reap_every=0.5)
    assert "1 alive: mac-1" in day("doctor").stdout
    day("pause", "--queue", "pocket")  # until it is known what is to be rendered first

    # An artist submits a night's work: refused as a whole for one bad line, then fixed.
    lines = [json.dumps({"prompt": prompt}) for prompt in PROMPTS]
    shots = tmp_path / "shots.jsonl"
    shots.write_text("\n".join([*lines[:6], '{"prompt": "a red ball", "width": 97}', *lines[6:]]))
    refused = day("batch", "shots.jsonl", "--seeds", "1-2", *SMALL, code=2)
    assert "shots.jsonl, line 7: " in refused.stderr
    assert "97" in refused.stderr
    assert "no jobs yet" in day("jobs").stderr
    shots.write_text("\n".join(lines))
    queued = day("batch", "shots.jsonl", "--seeds", "1-2", *SMALL)
    batch = queued.stdout.strip()
    assert "24 videos of shots.jsonl" in queued.stderr
    assert "queue pocket was paused by" in queued.stderr
    with farm_env.connect() as farm:
        jobs = [view.job for view in farm.batch(batch).views]
    assert [job.request.seed for job in jobs] == [1, 2] * 12
    day("cancel", jobs[CANCELLED - 1].id)
    undecided = [jobs[place - 1].id for place in UNDECIDED]
    day("pause", *undecided)
    day("resume", "--queue", "pocket")
    watch = start_ltx("watch", "--batch", batch, env=farm_env.env)

    # In the middle of it the operator upgrades the Mac: it finishes the current job first.
    with farm_env.connect() as farm:

        def ended():
            return [view for view in farm.batch(batch).views if view.snapshot.status is Status.DONE]

        wait_until(ended, what="the first video")
        assert ltx_worker(farm_env, "drain", name="mac-1").returncode == 0
        assert worker.wait(60) == 0
        before = ended()
        left = [view for view in farm.batch(batch).views if not view.ended]
        assert len(before) + len(left) == len(jobs) - 1
        assert {(view.status, view.snapshot.attempt) for view in left} == {(Status.QUEUED, 0)}
        assert set(undecided) <= {view.job.id for view in left}
        upgrade(farm_env)
        assert f"mac-1 has ltx-farm {NEXT}" in day("doctor").stdout
        day("resume", *undecided)

    # Whoever watched has seen all of it, without a break.
    _, seen = watch.communicate(timeout=120)
    assert watch.returncode == 0, seen
    assert sum(line.endswith("  done") for line in seen.splitlines()) == len(jobs) - 1
    assert sum(line.endswith("  cancelled") for line in seen.splitlines()) == 1

    # The artist downloads the videos, and looks at them on one page.
    fetched = day("download", "--batch", batch, "-o", "shots", "--sheet", code=1)
    assert "is cancelled" in fetched.stderr
    assert f"1 of {len(jobs)} videos of batch {batch} are not done" in fetched.stderr
    *videos, sheet = (tmp_path / line for line in fetched.stdout.split())
    index = json.loads((tmp_path / "shots" / "index.json").read_text())
    assert [entry["request"]["prompt"] for entry in index] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert [entry["status"] for entry in index] == ["done"] * (len(jobs) - 1) + ["cancelled"]
    assert [path.name for path in videos] == [entry["file"] for entry in index if entry["status"] == "done"]
    clips = [read_clip(path).frames for path in videos]
    assert {clip.shape for clip in clips} == {(9, 96, 96, 3)}
    assert len({clip.tobytes() for clip in clips}) == len(clips), "no two prompts or seeds gave the same"
    shown_on(sheet, clips)

    # Each was rendered once, by the old version or the new, and says so.
    sidecars = [json.loads(path.read_text()) for path in farm_env.storage.glob("*.json")]
    versions = {sidecar["job"]["id"]: sidecar["versions"]["ltx-farm"] for sidecar in sidecars}
    done_before = {view.job.id for view in before}
    assert versions == {
        job.id: metadata.version("ltx-farm") if job.id in done_before else NEXT for job in jobs[: CANCELLED - 1]
    }
    assert {sidecar["attempt"] for sidecar in sidecars} == {1}
    assert len({sidecar["worker"]["id"] for sidecar in sidecars}) == 1
    checksums = {hashlib.sha256(path.read_bytes()).hexdigest() for path in videos}
    assert {sidecar["video"]["sha256"] for sidecar in sidecars} == checksums

    # At last the operator takes away what is old.
    stored = {path.name for path in farm_env.storage.iterdir() if path.is_file()} - {".ltx-storage"}
    assert len(stored) == 3 * len(videos)  # each with its sidecar and its poster
    told = day("gc", "--older-than", "0h", "--dry-run").stdout.splitlines()
    assert set(told) == stored | {f"job {job.id}" for job in jobs}
    assert {path.name for path in farm_env.storage.iterdir() if path.is_file()} == stored | {".ltx-storage"}
    day("gc", "--older-than", "0h", "--yes")
    assert not [path for path in farm_env.storage.iterdir() if path.is_file() and path.name != ".ltx-storage"]
    assert "no jobs yet" in day("jobs").stderr


def shown_on(sheet, clips):
    """Check that the contact sheet has each clip's middle frame, row by row."""
    with Image.open(sheet) as picture:
        pixels = numpy.asarray(picture.convert("RGB"), dtype=float)
    height, width = clips[0].shape[1:3]
    columns = pixels.shape[1] // (width + 8)
    for number, clip in enumerate(clips):
        y, x = 8 + number // columns * (height + 47), 8 + number % columns * (width + 8)
        assert numpy.abs(pixels[y : y + height, x : x + width] - clip[len(clip) // 2]).mean() < 3, number
