"""Test workers with one machine id, as after a disk was cloned, and each one's record."""

import shutil
import time
from types import SimpleNamespace

import pytest

from ltx_client.protocol.pauses import worker_field
from ltx_client.protocol.workers import worker_names
from ltx_client.shared.live_workers import live_workers
from ltx_client.terminal.output import workers_table
from ltx_worker.machine.health import Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.settings import WorkerSettings


@pytest.fixture
def start(redis_client, names, tmp_path):
    """Start the worker of an LTX_HOME as far as its heartbeat; each `beat` is one that is due."""

    def start_worker(home="mac", name="mac"):
        settings = WorkerSettings(home=tmp_path / home, worker_name=name, namespace=names.namespace)
        health = Health("", lambda _: None, lambda _: False, hand_on=60)
        heartbeat = Heartbeat(settings, redis_client, "pocket", health)
        return SimpleNamespace(
            beat=heartbeat._tell, id=lambda: heartbeat.worker_id, heartbeat=heartbeat, health=health, home=settings.home
        )

    return start_worker


@pytest.fixture
def clone(start, tmp_path):
    def copy(source="mac", target="copy"):
        (tmp_path / target).mkdir()
        for path in (tmp_path / source).iterdir():
            shutil.copy(path, tmp_path / target)
        return lambda: start(target)

    return copy


@pytest.fixture
def listed(redis_client, names):
    return lambda: sorted(worker.id for worker in live_workers(redis_client, names))


def beat_all(*workers, rounds=6):
    for _ in range(rounds):
        for worker in workers:
            worker.beat()


def test_a_worker_that_is_restarted_keeps_its_id_and_is_seen_at_once(start, listed, redis_client, names):
    first = start()
    beat_all(first)
    again = start()  # the first was killed: its record is still there
    again.beat()
    assert listed() == [first.id()] == [again.id()]
    assert redis_client.hget(names.worker(again.id()), "run").decode() == again.heartbeat.run
    beat_all(again)
    assert again.id() == first.id()


def test_without_its_note_of_the_last_run_it_waits_until_the_record_is_gone(start, listed, redis_client, names):
    first = start()
    first.beat()
    (first.home / "worker.run").unlink()
    again = start()
    beat_all(again, rounds=20)
    assert again.id() == first.id()
    redis_client.delete(names.worker(first.id()))  # as it expires
    again.beat()
    assert listed() == [again.id()]


@pytest.mark.parametrize("when", ["before its first start", "while it was stopped", "while it ran"])
def test_of_two_with_one_id_one_draws_another(start, clone, listed, when, caplog):
    original = start()
    if when == "while it ran":
        original.beat()
        copy = clone()()
    else:
        start_copy = clone()
        if when == "while it was stopped":
            original = start()
        original.beat()
        copy = start_copy()
    shared = original.id()
    beat_all(copy, original)
    assert len({original.id(), copy.id()}) == 2
    assert shared in (original.id(), copy.id()), "one of them keeps it"
    assert listed() == sorted([original.id(), copy.id()])
    drew = next(worker for worker in (original, copy) if worker.id() != shared)
    assert (drew.home / "machine-id").read_text().strip() == drew.id()
    assert shared in drew.heartbeat.info().note
    assert drew.health.worker_id == drew.id()
    assert "another machine uses this one's id" in caplog.text
    settled = original.id(), copy.id()
    beat_all(original, copy, rounds=10)
    assert (original.id(), copy.id()) == settled, "they do so once"


def test_the_one_that_was_there_keeps_its_id_and_its_pause(start, clone, redis_client, names):
    original = start()
    start_copy = clone()
    (original.home / "worker.run").unlink()
    original = start()
    redis_client.hset(names.paused(), worker_field(original.id()), '{"of": "worker"}')
    original.beat()
    copy = start_copy()
    beat_all(original, copy)
    assert copy.id() != original.id()
    assert "has paused it" in original.health.why_paused
    assert copy.health.why_paused == ""


def test_three_copies_have_three_ids(start, clone, listed):
    original = start()
    starts = [clone(target=f"copy{number}") for number in range(3)]
    original.beat()
    workers = [original, *(each() for each in starts)]
    beat_all(*workers, rounds=12)
    assert len({worker.id() for worker in workers}) == 4
    assert listed() == sorted(worker.id() for worker in workers)


def test_one_that_was_cut_off_for_long_finds_its_place_again(start, listed, redis_client, names):
    worker = start()
    worker.beat()
    redis_client.delete(names.worker(worker.id()))
    beat_all(worker)
    assert listed() == [worker.id()]
    assert worker.heartbeat.info().note == ""


def test_one_that_leaves_does_not_take_another_off_the_list(start, clone, listed):
    original = start()
    start_copy = clone()
    original.beat()
    copy = start_copy()
    (copy.home / "worker.run").unlink()
    copy.heartbeat._identity.former_run = ""
    copy.heartbeat.leave()
    assert listed() == [original.id()]
    original.heartbeat.leave()
    assert listed() == []


def test_workers_of_one_name_are_told_apart(start, redis_client, names):
    beat_all(start("one", "studio"), start("two", "studio"), start("three", "attic"), rounds=1)
    workers = live_workers(redis_client, names)
    shown = [row[0].plain for row in workers_table(workers, time.time()).rows]
    assert shown == list(worker_names(workers).values())
    assert shown[0] == "attic"
    assert sorted(shown[1:]) == sorted(f"studio ({one.id[-8:]})" for one in workers if one.name == "studio")
    assert len(set(shown)) == 3
