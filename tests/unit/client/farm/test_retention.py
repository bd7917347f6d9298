"""Test what `ltx gc` removes, and above all what it keeps."""

import dataclasses
import hashlib
import os
import time
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from ltx_client.errors import UsageError
from ltx_client.farm import submit
from ltx_client.farm.farm import Farm
from ltx_client.farm.ledger.removal import REMOVAL_TTL, RemovalExchanges
from ltx_client.farm.ledger.scripts import Submission
from ltx_client.farm.retention import Removed, find_old, parse_age
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Relations
from ltx_models.request import ConditioningItem
from tests.storages import made
from tests.stored_farm import SMALL, StoredFarm

DAY = 24 * 3600
NOW = time.time()


@pytest.fixture
def farm(redis_client, names):
    return Farm.over(redis_client, SecretStr("redis://localhost"), names, None)


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path):
    return made(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path}")


def date(storage, name, days):
    """Make a file so many days old."""
    if storage._fs.protocol[0] == "file":
        os.utime(storage._path(name), (NOW - days * DAY,) * 2)
    else:
        entry = storage._fs.store[storage._path(name)]
        entry.created = entry.created.fromtimestamp(NOW - days * DAY, entry.created.tzinfo)
        entry.modified = entry.created


@pytest.fixture
def put(storage, tmp_path):
    def store(name, days=0.0):
        source = tmp_path / "source"
        source.write_bytes(b"12345")
        storage.put(source, name)
        if days:
            date(storage, name, days)
        return name

    return store


@pytest.fixture
def job_done(client_ledger, ledger, make_job, put):
    """Return a job that ended so many days ago, and its files, which were written then."""

    def make(days, ending=None, **fields):
        job = make_job(**fields)
        client_ledger.submit(job, Relations(batch="night", item=1))
        attempt = ledger.claim(job.id, "w", "mac")
        name = put(f"{job.id}.1.mp4", days)
        result = Result(video=name, sidecar="", size=5, sha256="0")
        ledger.commit(attempt, ending or events.Done(at=NOW - days * DAY, result=result))
        return job.id

    return make


def old(farm, storage, days):
    now = farm.now()
    return find_old(*farm.all_jobs(), storage, days * DAY, now)


def remove(farm, storage, found):
    *_, removed = [Removed(), *farm.remove(found, storage)]
    return removed


def test_what_ended_long_ago_goes_and_nothing_else(
    farm, storage, put, job_done, client_ledger, ledger, make_job, redis_client, names
):
    gone, stays = job_done(8), job_done(2)
    failed = job_done(9, events.Failed(at=NOW - 9 * DAY, error="no"))
    running, waits = make_job(), make_job()
    for job in (running, waits):
        client_ledger.submit(job)
        put(f"{job.id}.1.mp4", 100)
    ledger.claim(running.id, "w", "mac")
    unreadable = make_job()
    client_ledger.submit(unreadable)
    redis_client.hset(names.job(unreadable.id), "spec", '{"protocol": 99}')
    put(f"{unreadable.id}.1.mp4", 100)
    forgotten = put("0000-forgotten.1.mp4", 30), put("0000-forgotten.1.json", 30)
    put("0000-new.1.mp4")
    put("holiday.mp4", 100)
    put("notes.txt", 100)
    put("resume/x.1.0", 100)

    found = old(farm, storage, 7)
    assert sorted(found.jobs) == sorted([gone, failed])
    assert sorted(found.files) == sorted([f"{gone}.1.mp4", f"{failed}.1.mp4", *forgotten])
    assert found.size == 5 * 4
    removed = remove(farm, storage, found)
    assert (removed.files, removed.size, removed.jobs, removed.kept) == (4, 20, 2, [])
    known = {view.job.id for view in farm.jobs()}
    assert known == {stays, running.id, waits.id}
    assert [view.job.id for view in farm._run(farm._operations._batches.get("night")).views] == [stays]
    assert (old(farm, storage, 7).jobs, old(farm, storage, 7).files) == ({}, [])


def test_what_a_job_was_given_stays_while_one_needs_it(farm, storage, put, client_ledger, make_job):
    used, unused, new = ("a" * 64, "b" * 64, "c" * 64)
    job = make_job()
    item = ConditioningItem(kind="image", source=f"sha256:{used}")
    job = job.model_copy(update={"request": dataclasses.replace(job.request, conditioning=(item,))})
    farm._run(farm._operations._removals.want([used]))
    assert client_ledger.submit(job) is Submission.CREATED
    for name, days in ((used, 50), (unused, 50), (new, 1), ("README", 50)):
        put(f"inputs/{name}", days)
    assert old(farm, storage, 7).files == [f"inputs/{unused}"]
    client_ledger.cancel(job.id)
    assert set(old(farm, storage, -1).files) == {f"inputs/{name}" for name in (used, unused, new)}


def test_what_a_job_of_a_newer_version_may_need_stays(farm, storage, put, client_ledger, make_job, redis_client, names):
    """A field that is unknown here mentions the file; of a job that cannot be read, nobody knows what it needs."""
    used, unused = "a" * 64, "b" * 64
    job = make_job()
    client_ledger.submit(job)
    newer = job.model_dump_json().replace('"seed"', f'"loras":["sha256:{used}"],"seed"')
    redis_client.hset(names.job(job.id), "spec", newer)
    for name in (used, unused):
        put(f"inputs/{name}", 50)
    put(f"{job.id}.1.mp4", 100)
    assert old(farm, storage, 7).files == [f"inputs/{unused}"]
    redis_client.hset(names.job(job.id), "spec", newer.replace('"prompt"', '"scene"').replace('col":1', 'col":2'))
    found = old(farm, storage, 7)
    assert (found.files, found.inputs_kept_for) == ([], [job.id])
    redis_client.delete(names.job(job.id))  # it has expired, and is still listed
    found = old(farm, storage, 7)
    assert (found.inputs.keys(), found.inputs_kept_for) == ({used, unused}, [])


def test_gc_says_for_which_job_it_keeps_inputs(tmp_path, monkeypatch):
    stored = StoredFarm(tmp_path / "storage").installed(monkeypatch)
    source = tmp_path / "source"
    source.write_bytes(b"12345")
    stored.storage.put(source, f"inputs/{PICTURE}")
    date(stored.storage, f"inputs/{PICTURE}", 50)
    stored.ltx("submit", "a red ball", *SMALL, "--id", "of-tomorrow")
    record = stored.names.job("of-tomorrow")
    spec = stored.client.hget(record, "spec")
    stored.client.hset(record, "spec", '{"protocol": 99}')
    said = stored.ltx("gc", "--older-than", "7d", "--dry-run")
    assert (said.exit_code, said.stdout) == (0, "")
    assert "kept" in said.stderr and "job of-tomorrow" in said.stderr
    stored.client.hset(record, "spec", spec)
    said = stored.ltx("gc", "--older-than", "7d", "--dry-run")
    assert (said.stdout, "of-tomorrow" in said.stderr) == (f"inputs/{PICTURE}\n", False)


def test_a_batch_is_forgotten_with_its_last_job(farm, storage, job_done, redis_client, names):
    job_id = job_done(9)
    redis_client.hset(
        names.batch("night"), mapping={"name": "a.txt", "submitted_at": NOW - 9 * DAY, "submitter": "ann"}
    )
    redis_client.zadd(names.batches(), {"night": NOW - 9 * DAY})
    assert [batch.name for batch in farm.batches()] == ["a.txt"]
    remove(farm, storage, old(farm, storage, 7))
    assert farm._run(farm._operations._removals.is_known(job_id)) is False
    assert farm.batches() == []
    assert redis_client.keys(names.batch("*")) == []


@pytest.mark.parametrize(("text", "seconds"), [("12h", 12 * 3600), ("30d", 30 * DAY), (" 2W ", 14 * DAY), ("0d", 0)])
def test_ages(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "9999999d", "30 days"])
def test_what_is_no_age(text):
    with pytest.raises(ValueError, match="is invalid: it is not an age; use hours"):
        parse_age(text)


PICTURE = hashlib.sha256(b"12345").hexdigest()


@pytest.fixture
def job_with_picture(make_job):
    def make(**fields):
        job = make_job(**fields)
        item = ConditioningItem(kind="image", source=f"sha256:{PICTURE}")
        return job.model_copy(update={"request": dataclasses.replace(job.request, conditioning=(item,))})

    return make


@pytest.fixture
def sends(farm, storage, monkeypatch):
    """Let the farm use the storage, and no Celery."""
    farm.storage_url = "of the test"
    monkeypatch.setattr("ltx_client.farm.jobs.files.Storage", lambda _: storage)
    monkeypatch.setattr("ltx_client.farm.submit.publish", lambda *_: None)
    monkeypatch.setattr("ltx_client.farm.submit.ASK_AGAIN", 0.01)
    return farm


class BetweenListAndRemoval:
    """Does what others do after `ltx gc` has listed a done job, its video and its picture, and before it removes them.

    It reports what remains at the end: of the job's record, its video, and the picture.
    """

    def __init__(self, farm, job, make, storage, client):
        self.farm, self.job, self.make, self.storage, self.client = farm, job, make, storage, client

    def nothing(self):
        return (False, False, False)

    def a_submission_with_the_same_picture(self):
        self.farm.send(self.make())
        return (False, False, True)

    def a_submission_that_has_only_begun(self):
        self.farm._run(self.farm._operations._removals.want([PICTURE]))
        return (False, False, True)

    def a_retry(self):
        self.farm.retry(self.job.id)
        return (False, False, True)

    def a_download(self):
        assert self.farm._run(self.farm._operations._removals.begin_reading(self.job.id))
        return (True, True, False)

    def a_download_that_has_ended(self):
        token = self.farm._run(self.farm._operations._removals.begin_reading(self.job.id))
        self.farm._run(self.farm._operations._removals.end_reading(self.job.id, token))
        return (False, False, False)

    def another_gc(self):
        now = self.farm.now()
        remove(self.farm, self.storage, find_old(*self.farm.all_jobs(), self.storage, 7 * DAY, now))
        return (False, False, False)

    def the_same_id_again_after_all_was_gone(self):
        self.client.delete(*self.client.keys("*"))
        self.farm.send(self.make(id=self.job.id))
        return (True, True, True)

    def a_question_that_waited_for_hours(self):
        return (False, False, True)


@pytest.mark.parametrize("what", [name for name in vars(BetweenListAndRemoval) if not name.startswith("_")])
def test_what_is_removed_is_decided_again_at_the_removal(
    sends, storage, put, ledger, job_with_picture, redis_client, names, what
):
    put(f"inputs/{PICTURE}", 30)
    job = job_with_picture()
    sends.send(job)
    attempt = ledger.claim(job.id, "w", "mac")
    video = put(f"{job.id}.1.mp4", 9)
    ledger.commit(attempt, events.Failed(at=NOW - 8 * DAY, error="no"))
    redis_client.delete(names.input(PICTURE))  # an hour has passed since
    found = old(sends, storage, 7)
    assert (list(found.jobs), found.files) == ([job.id], [video, f"inputs/{PICTURE}"])
    left = getattr(BetweenListAndRemoval(sends, job, job_with_picture, storage, redis_client), what)()
    if "hours" in what:
        found.read_at -= 2 * 3600
    removed = remove(sends, storage, found)
    assert (
        sends._run(sends._operations._removals.is_known(job.id)),
        storage.exists(video),
        storage.exists(f"inputs/{PICTURE}"),
    ) == left
    kept = [name for name, stays in zip((f"job {job.id}", video, f"inputs/{PICTURE}"), left, strict=True) if stays]
    assert sorted(removed.kept) == sorted(kept)


def test_a_submission_waits_for_a_removal_and_stores_its_picture_anew(
    sends, storage, put, job_with_picture, tmp_path, names
):
    """Only this order of steps shows it: gc is allowed to remove, the submission begins, gc removes."""
    put(f"inputs/{PICTURE}", 30)
    removals, ask, token = RemovalExchanges(names), sends._run, "removing x"
    assert ask(removals.may_remove_input(PICTURE, token, sends.now())) == "yes"
    assert ask(removals.may_remove_input(PICTURE, "removing y", sends.now())) == "no"
    assert not ask(removals.want([PICTURE]))
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        storage.remove(f"inputs/{PICTURE}")
        ask(removals.input_removed(PICTURE, "removing y"))
        assert not ask(removals.want([PICTURE]))
        ask(removals.input_removed(PICTURE, token))

    picture = tmp_path / "picture.png"
    picture.write_bytes(b"12345")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltx_client.shared.broker.exchange.time", SimpleNamespace(sleep=sleep))
        sends.send(job_with_picture(), {PICTURE: picture})
    assert slept
    assert storage.exists(f"inputs/{PICTURE}")
    assert ask(removals.may_remove_input(PICTURE, token, sends.now())) == "no"


def test_a_removal_of_a_gc_that_was_killed_ends_by_itself(sends, redis_client, names):
    assert sends._run(sends._operations._removals.may_remove_input(PICTURE, "removing x", sends.now())) == "yes"
    assert 0 < redis_client.ttl(names.input(PICTURE)) <= REMOVAL_TTL


def test_a_submission_whose_hour_is_over_begins_again(sends, put, job_with_picture, redis_client, names, monkeypatch):
    """It stored its files for so long that they may be gone again."""
    put(f"inputs/{PICTURE}")
    job, tries = job_with_picture(), []
    store = submit.store_inputs

    def store_for_long(*args):
        store(*args)
        tries.append(redis_client.get(names.input(PICTURE)))
        if len(tries) == 1:
            redis_client.delete(names.input(PICTURE))

    monkeypatch.setattr(submit, "store_inputs", store_for_long)
    sends.send(job)
    assert tries == [b"wanted"] * 2
    assert sends.view(job.id)


def test_a_job_whose_picture_is_gone_is_refused(sends, job_with_picture):
    with pytest.raises(UsageError, match="no longer in the farm's storage"):
        sends.send(job_with_picture())
    assert sends.jobs() == []


@pytest.mark.parametrize("days", [40, -40, 1 / 24, -1 / 24])
@pytest.mark.parametrize("whose", ["laptop", "storage"])
def test_ages_are_by_the_clocks_that_wrote_the_times(farm, storage, put, job_done, monkeypatch, whose, days):
    """For jobs the broker's clock counts, whatever the laptop's shows; for files without a job, the storage's."""
    if whose == "laptop":
        skewed = SimpleNamespace(time=lambda: time.time() + days * DAY, monotonic=time.monotonic)
        monkeypatch.setattr("ltx_client.protocol.clock.time", skewed)
    new, gone = job_done(2), job_done(9)
    ahead = days if whose == "storage" else 0
    for name, age in (("0000-new.1.mp4", 2), ("0000-old.1.mp4", 9)):
        put(name, age - ahead)
    put_now = storage.put

    def put_by_its_clock(source, name):
        put_now(source, name)
        date(storage, name, -ahead)

    monkeypatch.setattr(storage, "put", put_by_its_clock)
    found = old(farm, storage, 7)
    assert list(found.jobs) == [gone]
    assert sorted(found.videos) == sorted([f"{gone}.1.mp4", "0000-old.1.mp4"])
    assert farm._run(farm._operations._removals.is_known(new))
    assert storage.names("inputs") == []
