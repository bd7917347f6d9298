"""What is counted of attempts: how they end, and that a lease is lost where another worker takes over."""

from types import SimpleNamespace

import pytest

from ltx_client.protocol import events
from ltx_client.protocol.state import Status
from ltx_models.errors import FaultKind, MachineFault
from ltx_worker.attempt.attempt import Attempt
from ltx_worker.attempt.outcomes import Outcome
from ltx_worker.attempt.states import State
from ltx_worker.engine import messages
from ltx_worker.engine.supervisor import EngineDied
from ltx_worker.ledger.ledger import StaleAttempt
from ltx_worker.observe.counted import CountedAttempts
from ltx_worker.observe.metrics import Metrics
from ltx_worker.queue.reaper import Reaper
from tests.unit.worker.attempt.attempts import STEPS, Machine, brought_to


@pytest.fixture
def metrics():
    return Metrics("pocket")


@pytest.fixture
def observers(metrics):
    return [CountedAttempts(metrics)]


@pytest.fixture
def counted(metrics):
    def count(name, **labels):
        return metrics.registry.get_sample_value(name, {"variant": "pocket", **labels})

    return count


@pytest.fixture
def machine(redis_client, names, tmp_path, observers):
    (tmp_path / "storage").mkdir()
    machine = Machine("one", redis_client, names, tmp_path, tmp_path / "storage", observers=observers)
    yield machine
    machine.close()


def test_an_attempt_that_another_worker_took_over_is_lost_once(
    ledger, names, redis_client, job, counted, metrics, observers, machine, monkeypatch
):
    claim = ledger.claim(job.id, "w1", "one")
    attempt = Attempt(claim, ledger, observers=observers)
    redis_client.delete(names.lease(job.id))
    monkeypatch.setattr(Reaper, "_notice_restart", lambda reaper: None)  # the fake has no INFO
    reaper = Reaper(
        redis_client, names, ledger, lambda *_, **__: None, SimpleNamespace(keep=lambda: None, __name__="keep"),
        holder="w2", every=5, lease=60, note_requeued=metrics.requeued,
    )  # fmt: skip
    reaper._examine_jobs()
    ledger.claim(job.id, "w2", "two")
    for write in (
        lambda: ledger.renew(claim),
        lambda: ledger.save(claim, b""),
        lambda: attempt.release(""),
    ):
        with pytest.raises(StaleAttempt):
            write()
    assert machine.renderer._outcomes.see_through(attempt, lambda each: each.release("")) is Outcome.LOST
    attempt.lose()
    assert attempt.state is State.LOST
    assert counted("ltx_lease_losses_total") == 1
    assert counted("ltx_requeued_jobs_total") == 1
    assert counted("ltx_jobs_total", outcome="released") == 0


@pytest.mark.parametrize("end", ["commit", "release"])
def test_a_renewal_after_its_own_end_is_no_loss(ledger, job, counted, observers, end):
    attempt = Attempt(ledger.claim(job.id, "w1", "one"), ledger, observers=observers)
    if end == "commit":
        attempt.commit(events.Failed(error="no"))
    else:
        assert attempt.release("shutting down") is Status.QUEUED
    with pytest.raises(StaleAttempt):
        ledger.renew(attempt.claim)
    attempt.lose()
    assert counted("ltx_lease_losses_total") == 0
    assert counted("ltx_jobs_total", outcome="failed" if end == "commit" else "released") == 1


def test_what_a_render_takes_is_counted(machine, job, counted):
    machine.run(job.id)
    assert machine.ledger.read(job.id).status is Status.DONE
    assert counted("ltx_step_seconds_count") == STEPS
    assert counted("ltx_phase_seconds_count", phase="encode") == 1
    assert counted("ltx_jobs_total", outcome="done") == 1
    assert counted("ltx_engine_deaths_total", fault="unknown") == 0


@pytest.mark.parametrize(("fault", "label"), [(None, "unknown"), (MachineFault("no", FaultKind.MEMORY), "machine")])
def test_deaths_of_the_engine_are_counted(machine, job, counted, fault, label):
    def says(command):
        yield messages.TextEncoded()
        raise EngineDied("it died", fault)

    machine.engine.says = says
    machine.run(job.id)
    assert counted("ltx_engine_deaths_total", fault=label) == 1
    assert counted("ltx_jobs_total", outcome="released") == 1


def test_the_gpu_has_work_from_a_renders_begin_to_its_last_frame(metrics, ledger, job, observers):
    attempt = brought_to(State.FETCHING, ledger.claim(job.id, "w1", "one"), ledger, observers)
    renders = [metrics._clock._renders]
    for state in (State.RENDERING, State.WRITING, State.DELIVERING, State.COMMITTING, State.DONE):
        attempt.to(state)
        renders.append(metrics._clock._renders)
    assert renders == [0, 1, 0, 0, 0, 0]
