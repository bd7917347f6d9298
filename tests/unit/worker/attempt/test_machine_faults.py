"""Whatever fails on one machine, wherever in an attempt: the job goes to another one, and the machine says why."""

import errno
import hashlib
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from ltx_client.protocol.state import Status
from ltx_client.shared.storage.store import StorageError, input_name
from ltx_models.errors import FaultKind, MachineFault, MediaError, VideoError
from ltx_models.families.variants import find_variant
from ltx_models.files.output_files import PART
from ltx_models.machine_faults import KIND_OF, machine_fault
from ltx_models.request import ConditioningItem, GenerationRequest
from ltx_worker.attempt import delivery
from ltx_worker.attempt.outcomes import Outcome
from ltx_worker.engine import messages
from ltx_worker.engine.supervisor import EngineDied
from ltx_worker.ledger.ledger import POISON_LIMITS, Ledger, Strike
from ltx_worker.machine.health import Fitness
from tests.unit.worker.attempt.attempts import Machine

ERRORS = ["ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "EIO", "ENOENT"]
PICTURE = b"not looked at"


@pytest.fixture
def machines(redis_client, names, tmp_path):
    made = []

    def make(*machine_names, **options):
        (tmp_path / "storage").mkdir(exist_ok=True)
        made.extend(
            Machine(name, redis_client, names, tmp_path, tmp_path / "storage", **options) for name in machine_names
        )
        return made

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def with_picture(make_job, client_ledger, redis_client, names, tmp_path):
    """A job with a picture, which lies in the storage."""
    sha256 = hashlib.sha256(PICTURE).hexdigest()
    path = tmp_path / "storage" / input_name(sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(PICTURE)
    item = ConditioningItem(kind="image", source=f"sha256:{sha256}", frame=0)
    request = GenerationRequest(prompt="a red ball", seed=1, conditioning=(item,)).resolve(find_variant("pocket"))
    job = make_job().model_copy(update={"request": request})
    redis_client.set(names.input(sha256), "wanted")
    assert client_ledger.submit(job) == "created"
    return job


class Broken:
    """What fails while `error` is set: a function of a module or class, for paths that `concerns` says."""

    def __init__(self, monkeypatch):
        self.error = None
        self._monkeypatch = monkeypatch

    def fail(self, owner, name, concerns=lambda *_: True):
        real = getattr(owner, name)

        def failing(*args, **options):
            if self.error and concerns(*args):
                raise self.error
            return real(*args, **options)

        self._monkeypatch.setattr(owner, name, failing)


def _named(*names):
    return lambda path, *_: Path(path).name in names


def _fetched(path, *_):
    """What a machine writes of what it fetches for a render."""
    return path.name.endswith(PART) and "work" in path.parts


def _of_engine(broken, machine):
    """The engine says it: of an error inside it, or of its MP4's writer."""
    well = machine.engine.says

    def says(command):
        if broken.error is None:
            yield from well(command)
        else:
            fault = machine_fault(broken.error)
            yield messages.Faulty(error=str(fault), kind=fault.kind)

    machine.engine.says = says


def _of_writer(broken, machine):
    well = machine.engine.says

    def says(command):
        yield from well(command)
        if broken.error is not None:
            machine.engine.video = machine.engine.video.__class__()
            machine.engine.video.set_exception(VideoError(str(broken.error), machine_fault(broken.error).kind))

    def swap(command):
        """The video's future is asked for at Decoded, which comes last."""
        *before, last = says(command)
        yield from before
        yield last

    machine.engine.says = swap


def _of_start(broken, machine):
    render = machine.engine.render

    def failing(*args):
        if broken.error:
            raise broken.error
        return (yield from render(*args))

    machine.engine.render = failing


PLACES = {
    "work folder": lambda broken, machine: broken.fail(tempfile, "mkdtemp"),
    "input": lambda broken, machine: broken.fail(Path, "open", _fetched),
    "engine's start": _of_start,
    "engine": _of_engine,
    "MP4": _of_writer,
    "sidecar": lambda broken, machine: broken.fail(Path, "write_text", _named("sidecar.json")),
    "spool folder": lambda broken, machine: broken.fail(Path, "mkdir", lambda path, *_: path.parent.name == "spool"),
    "spool": lambda broken, machine: broken.fail(shutil, "move"),
    "spool's note": lambda broken, machine: broken.fail(delivery, "replace_file"),
    "spool's rename": lambda broken, machine: broken.fail(
        Path, "replace", lambda _, target: target.name == "delivery.json"
    ),
}


def strikes(client, names, job_id):
    counted = {strike: int(client.hget(names.state(job_id), strike) or 0) for strike in Strike}
    return {strike: count for strike, count in counted.items() if count}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_system_gives_the_job_to_another_machine(
    machines, with_picture, redis_client, names, monkeypatch, name, place
):
    job, number = with_picture, getattr(errno, name)
    bad, good = machines("bad", "good")
    broken = Broken(monkeypatch)
    PLACES[place](broken, bad)
    broken.error = OSError(number, os.strerror(number), "/somewhere")
    bad.probed = MachineFault("the probe says so too", KIND_OF[number], confirmed=True)
    bad.run(job.id)
    snapshot = bad.ledger.read(job.id)
    assert snapshot.status is Status.QUEUED, snapshot.error
    assert os.strerror(number) in snapshot.message
    assert strikes(redis_client, names, job.id) == {}
    assert bad.health.fitness is Fitness.PAUSED
    assert os.strerror(number) in bad.heartbeat.info().why_paused
    assert bad.heartbeat.info().state == "paused"
    assert bad.noted == [KIND_OF[number]]
    assert list((bad.home / "work").iterdir()) == list((bad.home / "spool").iterdir()) == []
    assert bad.run(job.id) is Outcome.REFUSED
    broken.error = None
    good.run(job.id)
    snapshot = good.ledger.read(job.id)
    assert (snapshot.status, snapshot.worker) == (Status.DONE, "good"), snapshot.error


@pytest.mark.parametrize("name", ["spool", "work"])
def test_no_job_is_begun_whose_video_could_not_be_kept(machines, with_picture, name):
    """It would be rendered in vain, and again after each attempt."""
    (bad,) = machines("bad")
    path = bad.home / name
    path.rmdir()
    path.write_text("a file")
    assert bad.run(with_picture.id) is Outcome.RELEASED
    snapshot = bad.ledger.read(with_picture.id)
    assert (snapshot.status, snapshot.attempt, snapshot.message) == (Status.QUEUED, 0, None)
    assert bad.health.fitness is Fitness.PAUSED
    assert f"{path} is a file" in bad.heartbeat.info().why_paused
    path.unlink()
    path.mkdir()
    bad.health.resume()
    bad.run(with_picture.id)
    assert bad.ledger.read(with_picture.id).status is Status.DONE


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), FaultKind.MEMORY),
        (RuntimeError("can't start new thread"), FaultKind.MEMORY),
        (RuntimeError("[metal::malloc] Unable to allocate 9663676416 bytes."), FaultKind.MEMORY),
        (RuntimeError("[METAL] Command buffer execution failed: Caused GPU Timeout Error"), FaultKind.GPU),
        (ModuleNotFoundError("No module named 'sentencepiece'"), FaultKind.SOFTWARE),
        (ImportError("libfoo.so: cannot open shared object file"), FaultKind.SOFTWARE),
        (VideoError("ffmpeg could not be started"), FaultKind.FFMPEG),
        (VideoError("ffmpeg failed", FaultKind.SPACE), FaultKind.SPACE),
    ],
)
def test_other_errors_that_are_the_machines(error, kind):
    assert machine_fault(error).kind is kind


def test_what_an_error_of_the_library_came_from_tells_whose_it_is():
    def caused(cause):
        error = MediaError("it cannot be read")
        error.__cause__ = cause
        return machine_fault(error)

    assert caused(OSError(errno.EIO, "no")).kind is FaultKind.DISK
    assert caused(OSError("image file is truncated")) is None
    storage = StorageError("could not fetch it")
    storage.__cause__ = OSError(errno.EIO, "the storage's disk")
    assert machine_fault(storage) is None


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no"), KeyError("no"), ConnectionResetError(104, "no")])
def test_errors_that_say_nothing_of_the_machine(error):
    assert machine_fault(error) is None


def test_a_thread_that_cannot_be_started(machines, job, monkeypatch):
    bad, good = machines("bad", "good")
    broken = Broken(monkeypatch)
    broken.fail(threading.Thread, "start", lambda thread: thread.name.startswith("events"))
    broken.error = RuntimeError("can't start new thread")
    assert bad.run(job.id) is Outcome.RELEASED
    broken.error = None
    good.run(job.id)
    assert good.ledger.read(job.id).status is Status.DONE


def test_a_resume_point_that_has_no_room_on_the_disk(machines, job, monkeypatch):
    """Not to save it costs the render nothing, but no other begins."""
    (bad,) = machines("bad", max_in_redis=0)
    broken = Broken(monkeypatch)
    broken.fail(tempfile, "NamedTemporaryFile")
    broken.error = OSError(errno.ENOSPC, "No space left on device")
    bad.run(job.id)
    assert bad.ledger.read(job.id).status is Status.DONE
    assert bad.health.fitness is Fitness.PAUSED
    assert "No space left" in bad.health.why_paused


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EIO, errno.ENOMEM])
def test_a_fault_before_the_attempt_begins_leaves_the_job_to_others(machines, job, monkeypatch, number):
    bad, good = machines("bad", "good")
    monkeypatch.setattr(bad.health, "left_to_others", lambda: (_ for _ in ()).throw(OSError(number, "no")))
    assert bad.run(job.id) is Outcome.RELEASED
    assert bad.health.fitness is Fitness.PAUSED
    assert bad.ledger.read(job.id).attempt == 0
    good.run(job.id)
    assert good.ledger.read(job.id).status is Status.DONE


def test_a_resume_point_that_cannot_be_fetched_to_the_disk(machines, job, monkeypatch):
    first, bad, good = machines("first", "bad", "good", max_in_redis=0)
    first.engine.says = lambda command: iter(
        [
            messages.Stepped(step=1, steps=2, seconds=0.1, resume=b"point"),
            messages.Faulty(error="the disk fails", kind=FaultKind.DISK),
        ]
    )
    first.run(job.id)
    broken = Broken(monkeypatch)
    broken.fail(Path, "open", _fetched)
    broken.error = OSError(errno.EROFS, "Read-only file system")
    bad.run(job.id)
    snapshot = bad.ledger.read(job.id)
    assert snapshot.status is Status.QUEUED
    assert "Read-only file system" in snapshot.message
    broken.error = None
    good.run(job.id)
    assert good.engine.resumed == [b"point"]
    assert good.ledger.read(job.id).status is Status.DONE


def test_a_storage_that_cannot_be_reached_is_the_machines_fault_and_a_file_that_is_gone_the_jobs(
    machines, with_picture, tmp_path
):
    bad, good = machines("bad", "good")
    storage = tmp_path / "storage"
    storage.rename(tmp_path / "elsewhere")
    storage.write_text("where the share was, there is something else")
    bad.run(with_picture.id)
    snapshot = bad.ledger.read(with_picture.id)
    assert snapshot.status is Status.QUEUED, snapshot.error
    assert "cannot write to the storage" in bad.health.why_paused
    storage.unlink()
    (tmp_path / "elsewhere").rename(storage)
    shutil.rmtree(storage / "inputs")
    good.run(with_picture.id)
    snapshot = good.ledger.read(with_picture.id)
    assert snapshot.status is Status.FAILED
    assert "cannot read inputs/" in snapshot.error


def test_a_picture_that_cannot_be_read_fails_the_job_but_not_on_a_machine_with_a_fault(machines, with_picture):
    bad, good = machines("bad", "good")
    for machine in (bad, good):
        machine.engine.says = lambda command: iter([messages.Refused(error="the picture is damaged")])
    bad.probed = MachineFault("ffmpeg does not run", FaultKind.FFMPEG, confirmed=True)
    bad.run(with_picture.id)
    assert bad.ledger.read(with_picture.id).status is Status.QUEUED
    assert "ffmpeg does not run" in bad.health.why_paused
    good.run(with_picture.id)
    snapshot = good.ledger.read(with_picture.id)
    assert (snapshot.status, snapshot.error) == (Status.FAILED, "the picture is damaged")
    assert good.health.fitness is Fitness.FIT


def faulty(kind, confirmed=False):
    return lambda command: iter([messages.Faulty(error="something failed", kind=kind, confirmed=confirmed)])


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not FaultKind.NUMBERS])
def test_a_job_that_makes_every_machine_seem_faulty_fails_after_a_number_of_attempts(machines, job, kind):
    """No probe finds anything: it may be the job. No machine is paused for good, nor all at once for long."""
    made = machines("a", "b", "c")
    attempts = 0
    while made[0].ledger.read(job.id).status is Status.QUEUED:
        machine = made[attempts % 3]
        machine.engine.says = faulty(kind)
        machine.health.resume()  # its pause is over
        machine.others = False
        machine.run(job.id)
        attempts += 1
    snapshot = made[0].ledger.read(job.id)
    assert snapshot.status is Status.FAILED
    assert attempts == POISON_LIMITS[Strike.HOST_FAULT if kind in ("memory", "gpu", "display") else Strike.MISHAP]
    assert snapshot.error.startswith("something failed; ")
    assert f"{attempts} attempts" in snapshot.error


@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", ["changed", "a link", "a pipe"])
def test_a_picture_that_is_damaged_in_the_storage_fails_its_job_after_a_number_of_attempts(
    machines, with_picture, tmp_path, damage
):
    """It may be the machine's reading of it: others are asked; and none is paused, for each would be."""
    made = machines("a", "b", "c")
    (path,) = (tmp_path / "storage" / "inputs").iterdir()
    path.rename(path.with_name("moved"))
    {
        "changed": lambda: path.write_bytes(bytes(len(PICTURE))),
        "a link": lambda: path.symlink_to("moved"),
        "a pipe": lambda: os.mkfifo(path),
    }[damage]()
    attempts = 0
    while made[0].ledger.read(with_picture.id).status is Status.QUEUED:
        machine = made[attempts % 3]
        machine.health.resume()
        machine.others = False
        machine.run(with_picture.id)
        assert machine.health.fitness is Fitness.RESTING
        attempts += 1
    snapshot = made[0].ledger.read(with_picture.id)
    assert (snapshot.status, attempts) == (Status.FAILED, POISON_LIMITS[Strike.MISHAP])
    assert path.name in snapshot.error and "submit the job again with its file" in snapshot.error


def test_a_picture_that_one_machine_alone_reads_wrongly_is_rendered_by_another(machines, with_picture, tmp_path):
    bad, good = machines("bad", "good")
    (path,) = (tmp_path / "storage" / "inputs").iterdir()
    path.write_bytes(bytes(len(PICTURE)))
    bad.run(with_picture.id)
    path.write_bytes(PICTURE)
    assert good.ledger.read(with_picture.id).status is Status.QUEUED
    good.run(with_picture.id)
    assert good.ledger.read(with_picture.id).status is Status.DONE


def test_a_fault_that_a_job_may_have_caused_and_no_probe_finds_pauses_no_machine(machines, job):
    bad, _ = machines("bad", "good")
    bad.engine.says = faulty(FaultKind.FFMPEG)
    bad.run(job.id)
    assert bad.health.fitness is Fitness.RESTING
    assert "something failed" in bad.health.why_paused


def test_the_only_machine_never_fails_a_job_for_a_fault_that_is_there(machines, job, redis_client, names):
    (only,) = machines("only")
    only.others = False
    only.probed = MachineFault("the disk is full", FaultKind.SPACE, confirmed=True)
    only.engine.says = faulty(FaultKind.FFMPEG)
    for _ in range(20):
        only.run(job.id)
        assert only.ledger.read(job.id).status is Status.QUEUED
        assert "the disk is full" in only.health.why_paused
        only.health.resume()
    assert strikes(redis_client, names, job.id) == {}
    only.probed, only.engine.says = None, only.engine.well
    only.run(job.id)
    assert only.ledger.read(job.id).status is Status.DONE


@pytest.mark.parametrize("alone", [True, False])
def test_an_engine_that_dies_on_a_machine_with_a_fault_counts_against_no_job(machines, job, redis_client, names, alone):
    (bad,) = machines("bad")

    def dies(command):
        raise EngineDied("it died", alone=alone)
        yield

    bad.engine.says = dies
    bad.probed = MachineFault("the disk is full", FaultKind.SPACE, confirmed=True)
    bad.run(job.id)
    assert strikes(redis_client, names, job.id) == {}
    assert bad.health.fitness is Fitness.PAUSED


NAN = messages.Faulty(error="the latents of step 2 of 2 came out as NaN or infinite values", kind=FaultKind.NUMBERS)


def not_finite(command):
    yield messages.TextEncoded()
    yield messages.Stepped(step=1, steps=2, seconds=0.1, resume=b"point")
    yield NAN


def test_numbers_that_are_none_go_to_a_second_machine_from_the_beginning(machines, job):
    bad, good = machines("bad", "good")
    bad.engine.says = not_finite
    bad.run(job.id)
    assert bad.ledger.read(job.id).status is Status.QUEUED
    assert bad.ledger.saved(job.id) is None
    assert bad.run(job.id) is Outcome.REFUSED
    good.run(job.id)
    assert good.engine.resumed == [None]
    assert good.ledger.read(job.id).status is Status.DONE


def test_a_second_machine_that_finds_the_same_fails_the_job_and_says_so(machines, job):
    bad, other = machines("bad", "other")
    for machine in (bad, other):
        machine.engine.says = not_finite
        machine.run(job.id)
    snapshot = other.ledger.read(job.id)
    assert snapshot.status is Status.FAILED
    assert snapshot.error == f"{NAN.error}, on a second machine too: it is the job's own doing"


def test_the_same_machine_is_no_second_one(machines, job):
    """Even if it forgets that it has left the job to others, as after a restart."""
    (bad,) = machines("bad")
    bad.engine.says = not_finite
    for _ in range(5):
        bad.run(job.id)
        assert bad.ledger.read(job.id).status is Status.QUEUED
        bad.health.resume()


def test_the_only_machine_tries_once_more(machines, job):
    (only,) = machines("only")
    only.others = False
    only.engine.says = not_finite
    only.run(job.id)
    assert only.ledger.read(job.id).status is Status.QUEUED
    only.health.resume()
    only.run(job.id)
    snapshot = only.ledger.read(job.id)
    assert snapshot.status is Status.FAILED
    assert "each time that it was tried, and no other machine serves the job" in snapshot.error
    assert only.engine.resumed == [None, None]


def test_the_ledger_counts_machines_and_not_their_findings(redis_client, names, job):
    ledger = Ledger(redis_client, names)
    for by, expected in (("ab", Status.QUEUED), ("ab", Status.QUEUED), ("b", Status.FAILED)):
        attempt = ledger.claim(job.id, by, by)
        assert ledger.release(attempt, "NaN", Strike.NOT_FINITE, by=by, verdict="it is the job") is expected
    assert ledger.read(job.id).error == "it is the job"


def test_a_job_whose_record_says_too_little_memory_fails_for_that_and_is_no_machines_fault(
    machines, make_job, client_ledger
):
    request = GenerationRequest(prompt="a red ball", seed=1, width=1920, height=1088, num_frames=257)
    job = make_job(predicted_peak=1).model_copy(update={"request": request.resolve(find_variant("pocket"))})
    client_ledger.submit(job)
    (machine,) = machines("small")
    machine.renderer._settings = machine.renderer._settings.model_copy(update={"worker_memory_gb": 1})
    machine.run(job.id)
    snapshot = machine.ledger.read(job.id)
    assert (snapshot.status, snapshot.attempt) == (Status.FAILED, 1)
    assert snapshot.error.startswith("its record says that it needs 0.0 GB of memory, but it needs ")
    assert machine.health.fitness is Fitness.FIT
