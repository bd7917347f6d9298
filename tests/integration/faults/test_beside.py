"""Test two attempts of one worker: the end of one, during the start of the next."""

import signal

import pytest

from ltx_client.protocol.state import Status
from ltx_worker.membership.instance_lock import DRAIN_SIGNAL
from tests.integration.conftest import wait_until
from tests.integration.faults.audit import settle_and_audit
from tests.integration.faults.harness import BreakableFarm


@pytest.fixture(scope="module")
def shared(tmp_path_factory, clean_env):
    """A farm with one worker, which goes on from one test to the next."""
    farm = BreakableFarm(tmp_path_factory.mktemp("beside") / "farm", clean_env)
    farm.add_worker("one")
    farm.await_workers()
    farm.render_references((1, 2))
    yield farm
    assert not farm.close()


@pytest.fixture
def farm(shared):
    """The same, as the test before found it, however that ended."""
    yield shared
    shared.let_all_go()
    shared.await_workers()


def both(farm, phase):
    """Return two jobs: the first is held in `phase`, the second in mid-render."""
    first = farm.submit(seed=1, hold=phase)
    worker = farm.await_held(first.id, phase)
    second = farm.submit(seed=2, hold="denoising")
    assert farm.await_held(second.id, "denoising") is worker
    return first, second, worker


def both_died_with(farm, hold):
    """Return both after the engine was killed with them; each is held in the phase `hold` when it comes there again."""
    first, second, worker = both(farm, "writing")
    (engine,) = worker.engines()
    for job in (first, second):
        farm.expected[job.id].crashes = 1
        farm.hold(job.id, hold)
    engine.kill()
    return first, second


def with_another_waiting(farm, phase):
    """Return two jobs: the first is held in `phase`, and the second has waited since before that."""
    first = farm.submit(seed=1, hold="denoising")
    farm.await_held(first.id, "denoising")
    second = farm.submit(seed=2)
    farm.hold(first.id, phase)
    farm.release(first.id, "denoising")
    farm.await_held(first.id, phase)
    return first, second


def ended(farm, *jobs):
    farm.await_ended(*(job.id for job in jobs))
    snapshots = [farm.view(job.id).snapshot for job in jobs]
    return [(snapshot.status, snapshot.attempt) for snapshot in snapshots]


def test_a_job_is_rendered_while_the_last_one_is_written(farm):
    first, second, _ = both(farm, "writing")
    assert farm.view(first.id).status is Status.RUNNING
    with farm.connect() as client:
        (worker,) = client.workers()
    assert (worker.state, worker.job) == ("rendering", first.id)
    farm.release(second.id, "denoising")
    wait_until(lambda: farm.view(second.id).snapshot.step == 6, what="the second's last step")
    farm.release(first.id, "writing")
    assert ended(farm, first, second) == [(Status.DONE, 1)] * 2
    assert not settle_and_audit(farm)


def test_a_waiting_job_is_claimed_while_the_last_one_is_decoded(farm):
    first, second = with_another_waiting(farm, "decoding")
    wait_until(lambda: farm.view(second.id).status is Status.RUNNING, what="the claim")
    assert farm.view(second.id).snapshot.step == 0
    farm.release(first.id, "decoding")
    assert ended(farm, first, second) == [(Status.DONE, 1)] * 2
    assert not settle_and_audit(farm)


def test_a_job_that_comes_while_the_last_one_is_decoded_goes_to_who_is_idle(breakable):
    farm = breakable("one")
    farm.render_references((1, 2))
    first = farm.submit(seed=1, hold="decoding")
    farm.await_held(first.id, "decoding")
    farm.add_worker("two")
    farm.await_workers()
    second = farm.submit(seed=2)
    assert ended(farm, second) == [(Status.DONE, 1)]
    assert farm.view(second.id).snapshot.worker_name == "two"
    farm.release(first.id, "decoding")
    assert ended(farm, first) == [(Status.DONE, 1)]
    assert not settle_and_audit(farm)


@pytest.mark.parametrize("phase", ["decoding", "writing"])
def test_a_cancel_beside_the_next(farm, phase):
    first, second = with_another_waiting(farm, phase)
    farm.insist(lambda client: client.cancel(first.id))
    farm.expected[first.id].outcomes = frozenset({Status.CANCELLED})
    if phase == "decoding":  # the engine stands still, and would be killed, and the second's attempt with it
        farm.release(first.id, phase)
    assert ended(farm, first) == [(Status.CANCELLED, 1)]
    farm.release(first.id, phase)
    assert ended(farm, second) == [(Status.DONE, 1)]
    assert not settle_and_audit(farm)


def test_a_cancel_while_it_waits_for_the_engine(farm):
    first, second = with_another_waiting(farm, "decoding")
    wait_until(lambda: farm.view(second.id).status is Status.RUNNING, what="the claim")
    farm.insist(lambda client: client.cancel(second.id))
    farm.expected[second.id].outcomes = frozenset({Status.CANCELLED})
    assert ended(farm, second) == [(Status.CANCELLED, 1)]
    farm.release(first.id, "decoding")
    assert ended(farm, first) == [(Status.DONE, 1)]
    assert not settle_and_audit(farm)


def test_nobody_is_blamed_for_an_engine_that_dies_with_two_in_hand(farm):
    first, second = both_died_with(farm, hold="queued")
    for job in (first, second):
        wait_until(lambda job=job: farm.view(job.id).snapshot.status is Status.QUEUED, what="it being given back")
        assert "died" in farm.view(job.id).snapshot.message
    with farm.admin() as client:
        assert [client.hget(farm.names.state(job.id), "deaths") for job in (first, second)] == [b"0"] * 2
    for job in (first, second):
        for phase in ("queued", "denoising", "writing"):
            farm.release(job.id, phase)
    assert ended(farm, first, second) == [(Status.DONE, 2)] * 2
    assert not settle_and_audit(farm)


def test_after_a_death_each_is_rendered_alone(farm):
    first, second = both_died_with(farm, hold="committing")
    for job, phase in ((first, "writing"), (second, "denoising")):
        farm.release(job.id, phase)
    held = wait_until(lambda: [job for job in (first, second) if farm.holds(job.id, "committing")], what="the one")[0]
    other = first if held is second else second
    wait_until(lambda: farm.view(other.id).snapshot.status is Status.QUEUED, what="the other being given back")
    with farm.connect() as client:
        assert [worker.job for worker in client.workers()] == [held.id]
    for job in (held, other):
        farm.release(job.id, "committing")
    assert ended(farm, first, second) == [(Status.DONE, 2)] * 2
    assert not settle_and_audit(farm)


def test_what_kills_the_engine_beside_others_is_found_and_costs_them_one_attempt(farm):
    first = farm.submit(seed=1, hold="denoising")
    farm.mark(first.id, "writing.die")
    farm.await_held(first.id, "denoising")
    others = [farm.submit(seed=2) for _ in range(4)]
    for job in (first, *others):
        farm.expected[job.id].crashes = 3
    farm.expected[first.id].outcomes = frozenset({Status.FAILED})
    farm.release(first.id, "denoising")
    (status, attempts), *rest = ended(farm, first, *others)
    assert status is Status.FAILED
    assert attempts <= 3
    assert {status for status, _ in rest} == {Status.DONE}
    assert sum(attempts - 1 for _, attempts in rest) <= 1
    assert not settle_and_audit(farm)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_ends_gives_both_back(farm, number):
    first, second, worker = both(farm, "writing")
    worker.signal(number)
    worker.await_exit()
    for job in (first, second):
        farm.expected[job.id].crashes = 1
        farm.release(job.id, "writing")
        farm.release(job.id, "denoising")
    worker.start()
    assert ended(farm, first, second) == [(Status.DONE, 2)] * 2
    assert not settle_and_audit(farm)


def test_a_drained_worker_ends_both(farm):
    first, second, worker = both(farm, "writing")
    third = farm.submit(seed=1, hold="queued")
    worker.signal(DRAIN_SIGNAL)
    farm.release(second.id, "denoising")
    farm.release(first.id, "writing")
    assert worker.await_exit() == 0
    assert ended(farm, first, second) == [(Status.DONE, 1)] * 2
    farm.release(third.id, "queued")
    worker.start()
    assert ended(farm, third) == [(Status.DONE, 1)]
    assert not settle_and_audit(farm)
