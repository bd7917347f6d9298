"""A thread that cannot go on makes its worker take no jobs, and ends it after a while; a sleeping machine does not."""

import errno
import os
import threading

import pytest
import redis

from ltx_worker.threads import supervision
from ltx_worker.threads.supervision import Supervisor
from ltx_worker.threads.watched import Threads


class Watching:
    """A supervisor that is told what time it is."""

    def __init__(self, monkeypatch, **bounds):
        self.now = 0.0
        self.threads = Threads()
        self.ended = []
        monkeypatch.setattr(supervision.time, "monotonic", lambda: self.now)
        self.supervisor = Supervisor(
            self.ended.append, threads=self.threads, **{"unready_after": 10.0, "end_after": 100.0, **bounds}
        )
        self.supervisor._stopped.set()  # so that a cycle does not wait

    def pass_time(self, seconds, meanwhile=lambda: None, tick=1.0):
        for _ in range(round(seconds / tick)):
            self.now += tick
            meanwhile()
            self.supervisor._cycle()


def test_a_loop_at_fault_makes_the_worker_unready_then_ends_it(monkeypatch):
    watching = Watching(monkeypatch)
    with watching.threads.at_work("spool") as loop:
        watching.pass_time(3, lambda: loop.fail(TypeError("broken")))
        assert watching.threads.why_unready == ""
        watching.pass_time(9, lambda: loop.fail(TypeError("broken")))
        assert watching.threads.why_unready == "its thread spool cannot go on: TypeError: broken"
        assert watching.ended == []
        watching.pass_time(200, lambda: loop.fail(TypeError("broken")))
        assert watching.ended == ["its thread spool cannot go on: TypeError: broken"]


def test_a_loop_that_works_again_makes_the_worker_ready_again(monkeypatch):
    watching = Watching(monkeypatch)
    with watching.threads.at_work("spool") as loop:
        watching.pass_time(20, lambda: loop.fail(TypeError("broken")))
        assert watching.threads.why_unready
        watching.pass_time(1, loop.beat)
        assert watching.threads.why_unready == ""


def test_an_outage_ends_no_worker(monkeypatch):
    watching = Watching(monkeypatch)
    with watching.threads.at_work("leases") as loop:
        watching.pass_time(3600, lambda: loop.fail(redis.ConnectionError("gone")))
        assert (watching.threads.why_unready, watching.ended) == ("", [])
        assert watching.threads.infos()[0].failing


REFUSALS = [
    redis.exceptions.NoPermissionError("User worker has no permissions to run the 'zrevrange' command"),
    redis.ResponseError(
        "The user executing the script can't run this command or subcommand script: 9f…, on @user_script:106."
    ),
    redis.ResponseError("NOPERM this user has no permissions to access one of the keys"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=["a command", "a script", "a key"])
@pytest.mark.parametrize("tell", ["note", "fail"])
def test_a_right_that_is_missing_for_long_is_said_and_ends_no_worker(monkeypatch, error, tell):
    watching = Watching(monkeypatch)
    with watching.threads.at_work("render") as loop:
        watching.pass_time(8, lambda: getattr(loop, tell)(error))
        assert watching.threads.why_unready == ""
        watching.pass_time(3600, lambda: getattr(loop, tell)(error))
        assert watching.threads.why_unready.startswith("the broker refuses its thread render a right: ")
        assert "run deploy/users.sh again" in watching.threads.why_unready
        assert watching.ended == []
        watching.pass_time(2, loop.live)
        assert watching.threads.why_unready == ""


def test_too_many_open_files_are_no_outage_of_the_broker(monkeypatch):
    watching = Watching(monkeypatch)
    error = redis.ConnectionError("Error 24 connecting to farm:6379. Too many open files.")
    error.__cause__ = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with watching.threads.at_work("leases") as loop:
        watching.pass_time(150, lambda: loop.fail(error))
    assert len(watching.ended) == 1


def test_a_loop_that_hangs_ends_the_worker(monkeypatch):
    watching = Watching(monkeypatch)
    with watching.threads.at_work("reaper", limit=50):
        watching.pass_time(45)
        assert watching.threads.why_unready == ""
        watching.pass_time(10)
        assert "its thread reaper has not moved" in watching.threads.why_unready
        watching.pass_time(100)
        assert len(watching.ended) == 1


def test_a_thread_that_has_ended_ends_the_worker(monkeypatch):
    watching = Watching(monkeypatch)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    watching.threads.adopt("metrics-server", thread)
    watching.pass_time(1)
    assert watching.ended == ["its thread metrics-server has ended"]
    assert watching.threads.infos()[0].failing


@pytest.mark.parametrize("asleep", [3600.0, 24 * 3600.0])
def test_a_machine_that_slept_has_done_nothing_wrong(monkeypatch, asleep):
    """Whether its clock went on meanwhile or not."""
    watching = Watching(monkeypatch)
    with watching.threads.at_work("reaper", limit=50) as loop:
        watching.pass_time(2, loop.live)
        watching.pass_time(asleep, tick=asleep)
        watching.pass_time(40)
        assert (watching.threads.why_unready, watching.ended) == ("", [])


def test_a_loop_may_be_silent_for_a_good_reason(monkeypatch):
    watching = Watching(monkeypatch)
    watching.threads.adopt("consumer", threading.main_thread(), 50, lambda: True)
    watching.pass_time(1000)
    assert (watching.threads.why_unready, watching.ended) == ("", [])
