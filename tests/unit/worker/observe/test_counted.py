"""What counts as a lost lease: another worker's taking over, not what threads hear of an attempt that ended here."""

import pytest

from ltx_client.protocol import events
from ltx_client.protocol.state import Status
from ltx_worker.ledger.ledger import StaleAttempt
from ltx_worker.observe.counted import MeteredLedger
from ltx_worker.observe.metrics import Metrics


@pytest.fixture
def metrics():
    return Metrics("pocket")


@pytest.fixture
def ledger(metrics, redis_client, names):
    return MeteredLedger(metrics, redis_client, names)


@pytest.fixture
def counted(metrics):
    def count(name, **labels):
        return metrics.registry.get_sample_value(f"{name}_total", {"variant": "pocket", **labels})

    return count


def test_an_attempt_that_another_worker_took_over_is_lost_once(ledger, names, redis_client, job, counted):
    attempt = ledger.claim(job.id, "w1", "one")
    redis_client.delete(names.lease(job.id))
    ledger.requeue(job.id, ledger.read(job.id))
    ledger.claim(job.id, "w2", "two")
    for write in (
        lambda: ledger.renew(attempt),
        lambda: ledger.save(attempt, b""),
        lambda: ledger.release(attempt, ""),
    ):
        with pytest.raises(StaleAttempt):
            write()
    assert counted("ltx_lease_losses") == 1
    assert counted("ltx_requeued_jobs") == 1
    assert counted("ltx_jobs", outcome="released") == 0


@pytest.mark.parametrize("end", ["commit", "release"])
def test_a_renewal_after_its_own_end_is_no_loss(ledger, job, counted, end):
    attempt = ledger.claim(job.id, "w1", "one")
    if end == "commit":
        ledger.commit(attempt, events.Failed(error="no"))
    else:
        assert ledger.release(attempt, "shutting down") is Status.QUEUED
    with pytest.raises(StaleAttempt):
        ledger.renew(attempt)
    assert counted("ltx_lease_losses") == 0
    assert counted("ltx_jobs", outcome="failed" if end == "commit" else "released") == 1
