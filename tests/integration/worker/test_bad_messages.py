"""Test foreign queue items: they are skipped and logged, and the worker continues."""

import json
from collections import Counter

from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol.jobs import new_job_id
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from ltx_worker.celery.transport import KEPT_CHARACTERS, KEPT_ITEMS, why_refused
from tests.fuzz.campaign import drawn
from tests.fuzz.test_jobs import mutated_specs
from tests.fuzz.test_queue_items import MUTATED
from tests.integration.conftest import PROMPT, wait_until
from tests.integration.faults.bad_messages import BAD, FIVE_MB

NAMES = Names()
QUEUE = f"{NAMES.namespace}pocket.1"


def test_bad_items_are_set_aside_and_the_worker_renders_on(farm_env):
    worker = farm_env.start_worker("one", "--no-op")
    with farm_env.connect() as farm, farm_env.server.address.connect() as client:
        for make in BAD.values():
            client.lpush(QUEUE, make("pocket.1", "x"))
        job = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
        assert worker.poll() is None
        kept = [json.loads(entry) for entry in client.lrange(NAMES.dead(), 0, -1)]
        assert len(kept) == len(BAD)
        assert {entry["queue"] for entry in kept} == {"pocket.1"}
        assert max(entry["size"] for entry in kept) > FIVE_MB
        assert all(len(entry["item"]) <= 4 * KEPT_CHARACTERS for entry in kept)
        log = (farm_env.folder / "one.log").read_text()
        assert log.count("was set aside in ltx:dead: ") == len(BAD)
        assert max(map(len, log.splitlines())) < 500
        wait_until(lambda: not client.exists(f"{NAMES.namespace}unacked"), what="the job's own being acknowledged")


def test_only_the_last_are_kept(farm_env):
    with farm_env.server.address.connect() as client:
        client.lpush(QUEUE, *(f"number {n}" for n in range(KEPT_ITEMS + 50)))
        farm_env.start_worker("one", "--no-op")
        wait_until(lambda: not client.exists(QUEUE), what="the queue being empty")
        wait_until(lambda: b"number 149" in client.lindex(NAMES.dead(), 0), what="the last being set aside")
        assert client.llen(NAMES.dead()) == KEPT_ITEMS


def test_hundreds_of_mutated_messages_and_records_stop_neither_the_worker_nor_its_reaper(farm_env):
    """The reaper reads every queue in which a job waits, even one that this worker does not serve."""
    items, specs = drawn(MUTATED, 400), drawn(mutated_specs(), 60)
    refused = Counter(why_refused(item) is not None for item in items)
    assert refused[True] > 200 and refused[False] > 20
    request = GenerationRequest(prompt=PROMPT, seed=1, num_steps=2)
    with farm_env.connect() as farm, farm_env.server.address.connect() as client:
        large = prepare(request).job.model_copy(update={"predicted_peak": 30 * 10**9})
        ClientLedger(client, NAMES).submit(large)
        client.lpush(NAMES.namespace + large.queue, *items)
        for number, spec in enumerate(specs):
            client.hset(NAMES.job(job_id := new_job_id()), mapping={"spec": spec, "priority": "x" * number})
            client.zadd(NAMES.jobs(), {job_id: number})
        client.zadd(NAMES.jobs(), {b"\xff": 1})
        client.lpush(QUEUE, *items)
        worker = farm_env.start_worker("one", "--no-op", reap_every=0.2)
        wait_until(lambda: not client.exists(QUEUE), what="the queue being eaten")
        without_message = prepare(request).job
        ClientLedger(client, NAMES).submit(without_message)
        for job_id in (farm.submit(request).id, without_message.id):
            *_, last = farm.watch(job_id)
            assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1), last.snapshot.error
        assert worker.poll() is None
        assert client.llen(NAMES.namespace + large.queue) >= len(items)
        assert 100 <= client.llen(NAMES.dead()) <= KEPT_ITEMS
        wait_until(lambda: not client.exists(f"{NAMES.namespace}unacked"), what="all being acknowledged")
    log = (farm_env.folder / "one.log").read_text()
    assert log.count("was set aside in ltx:dead: ") == refused[True]
    assert log.count("no job waits for a turn here") >= refused[False]
    assert "Traceback" not in log
    assert max(map(len, log.splitlines())) < 700
