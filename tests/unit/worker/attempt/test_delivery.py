"""Handing a finished video over to a storage that fails in the middle; and what else may lie in a spool."""

import copy
import errno
import hashlib
import json
import os
import shutil
import stat
from concurrent.futures import Future

import pytest
import redis
from pydantic import ValidationError

from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.file_names import POSTER, RESULT_FILES, SIDECAR, VIDEO
from ltx_client.protocol.state import Status
from ltx_client.shared import unexpected_data as damage
from ltx_client.shared.storage import folder as storage_folder
from ltx_client.shared.storage.marker import MARKER
from ltx_worker.attempt import delivery
from ltx_worker.attempt.delivery import Delivery, Spool
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.states import State
from ltx_worker.ledger.ledger import StaleAttempt
from tests.storages import made
from tests.unit.worker.attempt.attempts import brought_to

CONTENT = b"whole"


def delivering(claim, ledger):
    return brought_to(State.DELIVERING, claim, ledger)


def result_of(attempt, **fields):
    digest = hashlib.sha256(CONTENT).hexdigest()
    names = {kind.field: kind.name(attempt.name) for kind in RESULT_FILES}
    whole = {**names, "size": len(CONTENT), "sha256": digest, "poster_sha256": digest}
    return Result(**{**whole, **fields})


def all_of(attempt):
    """The names of all files of an attempt's result in the storage."""
    return set(result_of(attempt).files.values())


@pytest.fixture
def storage(tmp_path):
    return made(str(tmp_path / "storage"))


@pytest.fixture
def spool(ledger, storage, tmp_path):
    points = ResumePoints(ledger, storage, tmp_path, 10**6)
    return Spool(tmp_path / "spool", storage, ledger, points, retry_for=5, look_every=1)


def test_a_try_that_left_part_of_a_file_is_cleared_up_by_the_next(spool, ledger, job, tmp_path, monkeypatch):
    """The storage turns read-only in mid-write, so that even the part cannot be removed, and comes back."""
    read_only = []
    copy, remove = storage_folder.copy_in, storage_folder.remove_at

    def copy_in(source, folder, name):
        copy(source, folder, name)
        if not read_only:
            read_only.append(name)
            raise OSError(errno.EROFS, "read-only", name)

    def remove_at(root, name):
        if name in read_only[:1] and len(read_only) == 1:
            read_only.append("gone again")
            raise OSError(errno.EROFS, "read-only", name)
        remove(root, name)

    monkeypatch.setattr(storage_folder, "copy_in", copy_in)
    monkeypatch.setattr(storage_folder, "remove_at", remove_at)
    files = {VIDEO: tmp_path / "a.mp4", SIDECAR: tmp_path / "a.json"}
    for path in files.values():
        path.write_bytes(CONTENT)
    attempt = ledger.claim(job.id, "w1", "one")
    spool.deliver(delivering(attempt, ledger), files, result_of(attempt).without(POSTER))
    assert ledger.read(job.id).status is Status.DONE
    assert len(read_only) == 2
    assert sorted(path.name for path in (tmp_path / "storage").iterdir()) == [
        MARKER,
        f"{attempt.name}.json",
        f"{attempt.name}.mp4",
    ]


def keep(spool, ledger, job, tmp_path):
    """A finished video whose delivery waits, since the broker was away."""
    folder = tmp_path / "finished"
    folder.mkdir(exist_ok=True)
    files = {kind: folder / kind.local for kind in RESULT_FILES}
    for path in files.values():
        path.write_bytes(CONTENT)
    attempt = ledger.claim(job.id, "w1", "one")
    commit, ledger.commit = ledger.commit, lambda *_: (_ for _ in ()).throw(redis.ConnectionError("gone"))
    spool._retry_for = 0
    spool.deliver(delivering(attempt, ledger), files, result_of(attempt))
    ledger.commit = commit
    (kept,) = (path for path in spool._folder.iterdir() if path.name.startswith(job.id))
    return kept


@pytest.mark.parametrize(
    ("asked", "becomes"), [("pause", Status.DONE), ("cancel", Status.CANCELLED)], ids=["paused", "cancelled"]
)
@pytest.mark.parametrize("away", [False, True], ids=["the storage is there", "the storage is away"])
def test_a_wish_that_comes_while_a_video_waits_in_the_spool(
    spool, ledger, client_ledger, job, tmp_path, storage, asked, becomes, away
):
    """A pause comes too late to save anything; a cancel counts, whether what was stored can be removed now or not."""
    keep(spool, ledger, job, tmp_path)
    getattr(client_ledger, asked)(job.id)
    spool._stopped.set()
    root = tmp_path / "storage"
    if away:
        root.rename(tmp_path / "unmounted")
        spool._cycle()
        assert ledger.read(job.id).status is (Status.CANCELLED if asked == "cancel" else Status.RUNNING)
        assert spool.waiting() == 1
        (tmp_path / "unmounted").rename(root)
    spool._cycle()
    assert ledger.read(job.id).status is becomes
    assert spool.waiting() == 0
    assert len(list(root.iterdir())) == (4 if becomes is Status.DONE else 1)


def a_foreign_note(spool, kept):
    foreign = spool / "another-job.1"
    shutil.copytree(kept, foreign)


def a_note_of(text):
    def make(spool, kept):
        (spool / "job.1").mkdir()
        (spool / "job.1" / "delivery.json").write_bytes(text)

    return make


def a_folder_that_is_no_text(spool):
    try:
        (spool / os.fsdecode(b"\xff\xfe")).mkdir()
    except OSError:
        pytest.skip("this file system takes no name that is no UTF-8")


STRAY = {
    "a file of the Finder's": lambda spool, kept: (spool / ".DS_Store").write_bytes(b"\0\0"),
    "a file of Windows'": lambda spool, kept: (spool / "Thumbs.db").write_text(""),
    "a file with a video's name": lambda spool, kept: (spool / "job.1").write_text(""),
    "a folder of somebody's": lambda spool, kept: (spool / "my things").mkdir(),
    "a hidden folder": lambda spool, kept: (spool / ".Trashes").mkdir(),
    "a link to nowhere": lambda spool, kept: (spool / "job.1").symlink_to("nowhere"),
    "a link to itself": lambda spool, kept: (spool / "job.1").symlink_to(spool / "job.1"),
    "a link to a folder": lambda spool, kept: (spool / "job.1").symlink_to(spool.parent),
    "a pipe": lambda spool, kept: os.mkfifo(spool / "job.1"),
    "an empty note": a_note_of(b""),
    "a foreign note": a_foreign_note,
    "a note that is no JSON": a_note_of(b"\xff\xfe"),
    "a note of something else": a_note_of(b'{"what": "is this"}'),
    "a deep note": a_note_of(b"[" * 100_000),
    "a folder in place of a note": lambda spool, kept: (spool / "job.1" / "delivery.json").mkdir(parents=True),
}
SOME = {"a name that is no text": lambda spool, kept: a_folder_that_is_no_text(spool)}
"""What only some file systems take."""


@pytest.mark.parametrize("stray", [*STRAY, *(pytest.param(stray, marks=pytest.mark.lane("machine")) for stray in SOME)])
def test_what_lies_in_the_spool_by_mistake_is_left_there_and_the_videos_are_delivered(
    spool, ledger, job, tmp_path, stray, caplog
):
    damage.tell_once.cache_clear()
    kept = keep(spool, ledger, job, tmp_path)
    {**STRAY, **SOME}[stray](spool._folder, kept)
    strays = set(spool._folder.iterdir()) - {kept}
    assert spool.waiting() >= 1
    spool._stopped.set()  # so that a cycle does not wait
    for _ in range(3):
        spool._cycle()
    assert ledger.read(job.id).status is Status.DONE
    assert set(spool._folder.iterdir()) == strays
    said = [message for message in caplog.messages if "set aside" in message]
    assert len(said) == 1
    (path,) = strays
    assert str(path)[:-3].encode(errors="replace") in said[0].encode(errors="replace")


def test_a_folder_that_cannot_be_read_is_set_aside(spool, ledger, job, tmp_path, monkeypatch):
    """As one without the permission; root may read all, and these tests may be root's."""
    kept = keep(spool, ledger, job, tmp_path)
    closed = spool._folder / "closed.1"
    closed.mkdir()
    deliver = spool._deliver_kept

    def deliver_but_closed(folder):
        if folder == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        deliver(folder)

    monkeypatch.setattr(spool, "_deliver_kept", deliver_but_closed)
    spool._stopped.set()
    spool._cycle()
    assert ledger.read(job.id).status is Status.DONE
    assert list(spool._folder.iterdir()) == [closed]
    assert not kept.exists()


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.OutOfMemoryError("full", status_code="OOM"),
        redis.ResponseError("BUSY with a script"),
        redis.ResponseError("ERR what is this"),
        redis.ConnectionError("gone"),
    ],
    ids=str,
)
def test_a_finished_video_waits_for_whatever_the_broker_says(spool, ledger, job, tmp_path, monkeypatch, error):
    keep(spool, ledger, job, tmp_path)
    spool._stopped.set()
    for method in ("renew", "commit", "refresh"):
        with monkeypatch.context() as broken:

            def fails(*_, error=error):
                raise error

            broken.setattr(ledger, method, fails)
            spool._cycle()
        assert spool.waiting() == 1
    spool._cycle()
    assert spool.waiting() == 0
    assert ledger.read(job.id).status is Status.DONE


def test_a_spool_that_was_removed_is_made_again(spool):
    shutil.rmtree(spool._folder)
    assert spool.waiting() == 0
    spool._stopped.set()
    spool._cycle()
    assert spool._folder.is_dir()


@pytest.fixture
def finished(tmp_path):
    """An MP4, its sidecar and its poster, as an engine leaves them."""

    def make():
        files = {kind: tmp_path / f"a{kind.suffix}" for kind in RESULT_FILES}
        for path in files.values():
            path.write_bytes(CONTENT)
        return files

    return make


def stored(storage):
    return {path.name for path in storage.local_folder.iterdir() if path.is_file()} - {MARKER}


def kept(spool):
    return sorted(path.name for path in spool._folder.iterdir())


def lose_last_writes(redis_client, names, job_id):
    """What a server that comes back without them knows of the job: that it was submitted."""
    redis_client.delete(names.state(job_id), names.lease(job_id), names.events(job_id))


def away(storage):
    (storage.local_folder / MARKER).rename(storage.local_folder / "aside")


def back(storage):
    (storage.local_folder / "aside").rename(storage.local_folder / MARKER)


def test_a_stale_attempt_of_the_same_number_removes_what_is_its_own_alone(
    spool, storage, ledger, job, redis_client, names, finished, tmp_path
):
    """The issue's sequence: two attempts have the number 1, the second commits, and then the first comes back."""
    first = ledger.claim(job.id, "w1", "one")
    away(storage)
    spool._retry_for = 0
    spool.deliver(delivering(first, ledger), finished(), result_of(first))
    assert kept(spool) == [first.name]

    back(storage)
    lose_last_writes(redis_client, names, job.id)
    second = ledger.claim(job.id, "w2", "two")
    assert second.number == first.number == 1
    other = Spool(tmp_path / "other spool", storage, ledger, spool._points, retry_for=0, look_every=1)
    other.deliver(delivering(second, ledger), finished(), result_of(second))
    result = ledger.read(job.id).result
    assert stored(storage) == all_of(second)

    spool._deliver_kept(spool._folder / first.name)
    assert kept(spool) == []
    assert stored(storage) == all_of(second)
    storage.get(result.video, tmp_path / "got", result.sha256, result.size)


def test_a_stale_attempt_that_had_stored_already_takes_back_its_own(
    spool, storage, ledger, job, redis_client, names, finished, monkeypatch
):
    first = ledger.claim(job.id, "w1", "one")
    commit = ledger.commit

    def lost(attempt, event):
        """Between store and commit, the server loses its last writes, and the job is done by another attempt."""
        monkeypatch.setattr(ledger, "commit", commit)
        assert stored(storage) == all_of(first)
        lose_last_writes(redis_client, names, job.id)
        second = ledger.claim(job.id, "w2", "two")
        for name in all_of(second):
            (storage.local_folder / name).write_bytes(CONTENT)
        commit(second, events.Done(result=result_of(second)))
        return commit(attempt, event)

    monkeypatch.setattr(ledger, "commit", lost)
    with pytest.raises(StaleAttempt):
        spool.deliver(delivering(first, ledger), finished(), result_of(first))
    result = ledger.read(job.id).result
    assert first.name not in result.video
    assert stored(storage) == set(result.files.values())
    assert kept(spool) == []


def old_delivery(spool, attempt, finished):
    """In the spool of a worker that was upgraded: names without a token."""
    folder = spool._folder / f"{attempt.job_id}.{attempt.number}"
    folder.mkdir()
    files = finished()
    for kind in (VIDEO, SIDECAR):
        files[kind].rename(folder / kind.local)
    stem = f"{attempt.job_id}.{attempt.number}"
    result = result_of(attempt, video=f"{stem}.mp4", sidecar=f"{stem}.json").without(POSTER)
    note = {"job_id": attempt.job_id, "attempt": attempt.number, "token": attempt.token}
    fields = result.model_dump(exclude={"poster", "poster_sha256"})
    (folder / "delivery.json").write_text(json.dumps({**note, "result": fields}))
    return folder, result


def test_what_lay_in_the_spool_before_an_upgrade_is_delivered(spool, storage, ledger, job, finished):
    attempt = ledger.claim(job.id, "w1", "one")
    folder, result = old_delivery(spool, attempt, finished)
    spool._deliver_kept(folder)
    assert ledger.read(job.id).result == result
    assert stored(storage) == {f"{job.id}.1.mp4", f"{job.id}.1.json"}
    assert kept(spool) == []


def test_a_stale_one_from_before_an_upgrade_removes_no_file_that_may_be_anothers(
    spool, storage, ledger, job, redis_client, names, finished
):
    first = ledger.claim(job.id, "w1", "one")
    folder, result = old_delivery(spool, first, finished)
    lose_last_writes(redis_client, names, job.id)
    second = ledger.claim(job.id, "w2", "two")
    for name in (result.video, result.sidecar):
        (storage.local_folder / name).write_bytes(CONTENT)
    ledger.commit(second, events.Done(result=result))
    spool._deliver_kept(folder)
    assert kept(spool) == []
    assert stored(storage) == {result.video, result.sidecar}


@pytest.mark.parametrize(
    "change",
    [
        {"job_id": "../../x"},
        {"job_id": "another-job"},
        {"attempt": -1},
        {"attempt": 10**30},
        {"attempt": 2},
        {"token": ""},
        {"token": "../../../../../../../etc/passwd0"},
        {"token": "f" * 32},
        {"result": {"video": "../../etc/passwd"}},
        {"result": {"video": "holiday.mp4"}},
        {"result": {"sidecar": "another-job.1.0123456789ab.json"}},
        {"result": {"size": -1}},
        {"result": {"sha256": "../x"}},
        {"result": {"sidecar": "../x.json"}},
        {"result": {"poster": "../x.jpg"}},
        {"result": {"poster": "holiday.jpg"}},
        {"result": {"poster": "another-job.1.0123456789ab.jpg"}},
        {"result": {"poster_sha256": "../x"}},
        {"result": None},
    ],
    ids=str,
)
def test_a_note_that_is_not_of_its_attempt_is_refused(ledger, job, change):
    attempt = ledger.claim(job.id, "w1", "one")
    whole = {"job_id": job.id, "attempt": 1, "token": attempt.token, "result": result_of(attempt).model_dump()}
    assert Delivery.model_validate(whole).name == attempt.name
    inner = change.get("result")
    changed = {**whole, **change} if inner is None else {**whole, "result": {**whole["result"], **inner}}
    with pytest.raises(ValidationError):
        Delivery.model_validate_json(json.dumps(changed))


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_video_that_was_damaged_in_the_spool_is_rendered_again(
    spool, storage, ledger, job, finished, damage, redis_client, names
):
    attempt = ledger.claim(job.id, "w1", "one")
    away(storage)
    spool._retry_for = 0
    spool.deliver(delivering(attempt, ledger), finished(), result_of(attempt))
    back(storage)
    video = spool._folder / attempt.name / "video.mp4"
    video.unlink() if damage == "gone" else video.write_bytes(b"")
    spool._deliver_kept(spool._folder / attempt.name)
    snapshot = ledger.read(job.id)
    assert (snapshot.status, snapshot.attempt) == (Status.QUEUED, 1)
    assert "damaged before it was stored" in snapshot.message
    assert stored(storage) == set()
    assert kept(spool) == []
    assert redis_client.hget(names.state(job.id), "deaths") is None


def test_what_lies_in_the_spool_is_on_the_disk_and_its_owners_alone(spool, storage, ledger, job, finished):
    attempt = ledger.claim(job.id, "w1", "one")
    away(storage)
    spool._retry_for = 0
    spool.deliver(delivering(attempt, ledger), finished(), result_of(attempt))
    note = spool._folder / attempt.name / "delivery.json"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600, "the token in it is the right to write"
    assert "is away" in ledger.read(job.id).message


@pytest.mark.parametrize("how", ["nothing", "half"])
def test_a_storage_that_lies_gets_no_commit(spool, storage, ledger, job, finished, monkeypatch, how):
    attempt = ledger.claim(job.id, "w1", "one")
    spool._retry_for = 0
    some = CONTENT[: 2 * (how == "half")]
    with monkeypatch.context() as lying:
        lying.setattr(storage_folder, "copy_in", lambda _, *to: storage_folder.write_new_at(*to, some))
        spool.deliver(delivering(attempt, ledger), finished(), result_of(attempt))
    assert ledger.read(job.id).status is Status.RUNNING
    assert "it was accepted, but" in ledger.read(job.id).message
    assert stored(storage) == set()
    spool._deliver_kept(spool._folder / attempt.name)
    assert ledger.read(job.id).status is Status.DONE
    assert kept(spool) == []


def gone(*_, **__):
    raise redis.ConnectionError("gone")


@pytest.fixture
def landed(spool, ledger, job, finished, monkeypatch):
    """Return a function that delivers a video whose commit is written, but gets no answer."""

    def deliver(meanwhile=lambda: None, *, broken=()):
        """Call `meanwhile` after the commit, and let the `broken` methods of the ledger fail from then on."""
        attempt = delivering(ledger.claim(job.id, "w1", "one"), ledger)
        commit = ledger.commit
        with monkeypatch.context() as patch:

            def without_an_answer(claim, event):
                commit(copy.copy(claim), event)
                meanwhile()
                for name in broken:
                    patch.setattr(ledger, name, gone)
                gone()

            patch.setattr(ledger, "commit", without_an_answer)
            spool._retry_for = 0
            try:
                spool.deliver(attempt, finished(), result_of(attempt.claim))
            except StaleAttempt:
                attempt.lose()  # as `Outcomes` does
        assert ledger.read(job.id).status is Status.DONE
        spool._stopped.set()
        return attempt

    return deliver


def assert_delivered(spool, storage, attempt):
    assert stored(storage) == all_of(attempt.claim)
    assert kept(spool) == []


def test_a_result_stays_when_the_storage_is_away_after_a_restart(spool, storage, landed):
    attempt = landed(broken=("renew", "emit"))
    spool._attempts.clear()  # the worker is another process now
    away(storage)
    spool._cycle()
    back(storage)
    spool._cycle()
    assert_delivered(spool, storage, attempt)


def test_a_result_stays_when_the_storage_is_away_at_the_next_try(spool, storage, landed):
    attempt = landed(lambda: away(storage))
    spool._cycle()
    back(storage)
    spool._cycle()
    assert_delivered(spool, storage, attempt)
    assert attempt.state is State.DONE


def test_a_result_stays_when_the_broker_answers_again_too_late(spool, storage, landed):
    attempt = landed(broken=("renew",))
    spool._cycle()
    assert_delivered(spool, storage, attempt)


def test_an_attempt_that_is_taken_over_is_lost_before_the_spool_sees_its_folder(
    spool, ledger, redis_client, names, job, finished
):
    """Otherwise the spool's thread would count it as another attempt, which is lost as well."""
    attempt = delivering(ledger.claim(job.id, "w1", "one"), ledger)
    lose_last_writes(redis_client, names, job.id)
    with pytest.raises(StaleAttempt):
        spool.deliver(attempt, finished(), result_of(attempt.claim))
    assert attempt.state is State.LOST


def test_a_video_is_delivered_after_an_unexpected_error(spool, storage, ledger, job, finished, monkeypatch):
    attempt = delivering(ledger.claim(job.id, "w1", "one"), ledger)

    def unexpected(*_):
        raise ValueError("unexpected")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "_link", unexpected)
        with pytest.raises(ValueError, match="unexpected"):
            spool.deliver(attempt, finished(), result_of(attempt.claim))
    attempt.drop()
    spool._stopped.set()
    spool._cycle()
    assert ledger.read(job.id).status is Status.DONE
    assert_delivered(spool, storage, attempt)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def a_full_disk_at_the_spool(monkeypatch, spool):
    move = shutil.move
    monkeypatch.setattr(shutil, "move", lambda source, to: full() if to.name == POSTER.local else move(source, to))


def a_full_storage(monkeypatch, spool):
    copy_in = storage_folder.copy_in

    def copy(source, folder, name):
        copy_in(source, folder, name)
        if POSTER.suffix in name:
            full()

    monkeypatch.setattr(storage_folder, "copy_in", copy)


def a_storage_that_keeps_half(monkeypatch, spool):
    copy_in = storage_folder.copy_in

    def copy(source, folder, name):
        copy_in(source, folder, name)
        if POSTER.suffix in name:
            half = os.open(name, os.O_WRONLY, dir_fd=folder)
            os.truncate(half, 1)
            os.close(half)

    monkeypatch.setattr(storage_folder, "copy_in", copy)


def damage_in_the_spool(monkeypatch, spool):
    move = shutil.move

    def moved(source, to):
        move(source, to)
        if to.name == POSTER.local:
            to.write_bytes(b"half")

    monkeypatch.setattr(shutil, "move", moved)


@pytest.mark.parametrize(
    "broken", [a_full_disk_at_the_spool, a_full_storage, a_storage_that_keeps_half, damage_in_the_spool]
)
def test_a_poster_that_cannot_be_kept_costs_no_video(
    spool, storage, ledger, job, finished, monkeypatch, broken, caplog
):
    broken(monkeypatch, spool)
    attempt = ledger.claim(job.id, "w1", "one")
    spool.deliver(delivering(attempt, ledger), finished(), result_of(attempt))
    snapshot = ledger.read(job.id)
    assert (snapshot.status, snapshot.attempt) == (Status.DONE, 1)
    assert snapshot.result == result_of(attempt).without(POSTER)
    assert (snapshot.result.poster, snapshot.result.poster_sha256) == (None, "")
    assert stored(storage) == all_of(attempt) - {POSTER.name(attempt.name)}
    assert kept(spool) == []
    assert "is left out" in caplog.text


class Killed(BaseException):
    """In place of the process's end."""


def at_once(name, function, *args):
    """In place of a thread, which would outlive the process that is killed here."""
    future = Future()
    future.set_result(function(*args))
    return future


@pytest.mark.parametrize("kind", [*RESULT_FILES, None], ids=lambda kind: kind.field if kind else "commit")
@pytest.mark.parametrize("taken_over", [False, True], ids=["it comes back", "another takes over"])
def test_a_worker_that_is_killed_between_two_files_and_the_commit_leaves_one_result_and_nothing_else(
    spool, storage, ledger, job, redis_client, names, finished, monkeypatch, kind, taken_over
):
    """After each file is stored, and after all of them: the worker's next process delivers the whole or nothing."""
    attempt = ledger.claim(job.id, "w1", "one")
    put = storage.put

    def killed(source, name, sha256=None):
        put(source, name, sha256)
        if kind is not None and name.endswith(kind.suffix):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", killed)
        patch.setattr(delivery, "concurrently", at_once)
        if kind is None:
            patch.setattr(ledger, "commit", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            spool.deliver(delivering(attempt, ledger), finished(), result_of(attempt))
    assert ledger.read(job.id).status is Status.RUNNING
    assert stored(storage) <= all_of(attempt)
    assert kept(spool) == [attempt.name]
    spool._attempts.clear()
    spool._stopped.set()
    if taken_over:
        lose_last_writes(redis_client, names, job.id)
        second = ledger.claim(job.id, "w2", "two")
        other = Spool(spool._folder.with_name("other"), storage, ledger, spool._points, retry_for=0, look_every=1)
        other.deliver(delivering(second, ledger), finished(), result_of(second))
    winner = second if taken_over else attempt
    spool._cycle()
    assert ledger.read(job.id).result == result_of(winner)
    assert stored(storage) == all_of(winner)
    assert kept(spool) == []


def test_every_file_that_may_be_fetched_has_a_link_of_its_own(spool, ledger, job, finished, redis_client, names):
    """They are with the result alone: neither events nor the state show them."""
    spool._sign_for, spool._own_link = 60, lambda name, seconds: f"http://mac/{name}?{seconds}"
    attempt = ledger.claim(job.id, "w1", "one")
    spool.deliver(delivering(attempt, ledger), finished(), result_of(attempt))
    files = json.loads(redis_client.hget(names.result(job.id), "files"))
    assert files["link"] == f"http://mac/{attempt.name}.mp4?60"
    assert files["poster_link"] == f"http://mac/{attempt.name}.jpg?60"
    written = [redis_client.hget(names.state(job.id), "snapshot"), *redis_client.xrange(names.events(job.id))]
    assert "http://mac" not in str(written)
