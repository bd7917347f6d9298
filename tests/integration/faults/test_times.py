"""Measure how long a farm takes to recover."""

import signal
import time

import pytest

from ltx_client.protocol import events
from ltx_client.protocol.events import parse_event
from ltx_client.protocol.state import Status
from ltx_models.request import MAX_STEPS
from tests.integration.conftest import wait_until
from tests.integration.faults.audit import settle_and_audit
from tests.integration.faults.harness import BreakableFarm

MEASURED = pytest.mark.lane("slow")
"""What is promised of a quiet machine. In CI, beside others, the same is done in the end, and soon enough."""


def log_of(farm, job):
    with farm.admin() as client:
        return [parse_event(fields[b"event"]) for _, fields in client.xrange(farm.names.events(job.id))]


def time_of(farm, job, kind, after):
    return next((event.at for event in log_of(farm, job) if isinstance(event, kind) and event.at > after), None)


def killed_to_running(farm, tell):
    """Return the seconds from a worker's SIGKILL in mid-render to its job's next step on the other worker."""
    job = farm.submit(hold="denoising")
    worker = farm.await_held(job.id, "denoising")
    farm.await_saved(job.id, "denoising")
    worker.kill()
    killed = time.time()
    farm.release(job.id, "denoising")
    farm.expected[job.id].crashes = 1
    wait_until(lambda: time_of(farm, job, events.Stepped, killed), what="the next step")
    claimed = time_of(farm, job, events.Claimed, killed) - killed
    stepped = time_of(farm, job, events.Stepped, killed) - killed
    tell(f"killed to claimed elsewhere: {claimed:.2f} s, to the next step: {stepped:.2f} s")
    farm.await_ended(job.id)
    snapshot = farm.view(job.id).snapshot
    assert (snapshot.status, snapshot.attempt) == (Status.DONE, 2)
    assert snapshot.lost_steps <= 1
    return stepped


@pytest.mark.parametrize("within", [pytest.param(5, marks=MEASURED), 90])
def test_a_killed_workers_job_runs_elsewhere_within_seconds(breakable, tell, within):
    farm = breakable("one", "two", lease=3.0, renew_every=1)
    assert killed_to_running(farm, tell) <= within


@pytest.mark.lane("slow")
def test_with_production_settings_it_runs_elsewhere_within_75_seconds(breakable, tell):
    defaults = dict.fromkeys(("renew_every", "reap_every", "heartbeat_every", "deliver_for", "stop_grace"))
    farm = breakable("one", "two", lease=60.0, **defaults)
    assert killed_to_running(farm, tell) <= 75


@pytest.fixture(scope="module")
def pair(tmp_path_factory, clean_env):
    """A farm with two workers, which continues from one test to the next."""
    farm = BreakableFarm(tmp_path_factory.mktemp("times") / "farm", clean_env)
    for name in ("one", "two"):
        farm.add_worker(name)
    farm.await_workers()
    farm.render_references((1,))
    yield farm
    assert not farm.close()


def test_a_broker_away_for_three_leases_costs_no_second_claim(pair):
    """The render ends during the outage; the result is committed afterwards."""
    farm = pair
    job = farm.submit(hold="denoising")
    farm.await_held(job.id, "denoising")
    for worker in farm.workers.values():
        worker.proxy.swallow()
    time.sleep(farm.lease * 2.5)
    farm.release(job.id, "denoising")
    time.sleep(farm.lease * 0.5)
    for worker in farm.workers.values():
        worker.proxy.release()
    assert not settle_and_audit(farm)
    assert farm.view(job.id).snapshot.attempt == 1


def test_a_server_away_for_three_leases_costs_no_second_claim(pair):
    farm = pair
    job = farm.submit(hold="denoising")
    farm.await_held(job.id, "denoising")
    farm.kill_server()
    time.sleep(farm.lease * 1.5)
    farm.release(job.id, "denoising")
    time.sleep(farm.lease * 1.5)
    farm.server.start()
    assert not settle_and_audit(farm)
    assert farm.view(job.id).snapshot.attempt == 1


def cancelled(farm, job):
    """Return the seconds from a cancel to the job's end, which is written when the engine has stopped."""
    asked = time.time()
    assert farm.insist(lambda client: client.cancel(job.id)) is Status.RUNNING
    farm.await_ended(job.id)
    return time_of(farm, job, events.Cancelled, asked) - asked


@pytest.mark.parametrize(("within", "times"), [pytest.param(1, 5, marks=MEASURED), (60, 2)])
def test_a_cancel_ends_a_render_within_one_step_and_seconds(breakable, tell, within, times):
    farm = breakable("one")
    for _ in range(times):
        job = farm.submit(steps=MAX_STEPS)
        wait_until(lambda job=job: farm.view(job.id).snapshot.step > 5, what="a few steps")
        step = farm.view(job.id).snapshot.step_seconds
        seconds = cancelled(farm, job)
        tell(f"cancel to idle: {seconds:.2f} s, a step: {step:.2f} s")
        assert seconds < step + within
        assert farm.view(job.id).snapshot.step < MAX_STEPS


@pytest.mark.parametrize("within", [pytest.param(15, marks=MEASURED), 90])
def test_a_cancel_ends_an_engine_that_hangs_within_seconds(breakable, tell, within):
    farm = breakable("one", stop_grace=None)  # the default
    job = farm.submit(steps=MAX_STEPS)
    wait_until(lambda: farm.view(job.id).snapshot.step > 5, what="a few steps")
    (engine,) = farm.workers["one"].engines()
    engine.send_signal(signal.SIGSTOP)
    seconds = cancelled(farm, job)
    tell(f"cancel to idle, hanging: {seconds:.2f} s")
    assert not engine.is_running()
    assert seconds < within
