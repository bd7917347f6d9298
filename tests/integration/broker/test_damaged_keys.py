"""Test that one bad key or record of a farm is skipped and named, and the others are still served, on both sides."""

import json
import time

import pytest
import redis

from ltx_client.errors import BrokerError, FarmError
from ltx_client.farm.broker import broker_errors
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.removal import RemovalExchanges
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Snapshot
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared import unexpected_data
from ltx_client.shared.broker.exchange import run
from ltx_client.shared.celery.celery_settings import queue_keys, unacked_keys
from ltx_client.shared.doctor.broker_checks import BrokerChecks
from ltx_client.shared.doctor.checks import run_checks
from ltx_models.request import GenerationRequest
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache, EmbeddingsLimit
from ltx_worker.ledger.ledger import Claim, Ledger, Refusal
from ltx_worker.ledger.selection import Turn
from ltx_worker.machine.health import Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.queue.reaper import Reaper
from ltx_worker.settings import WorkerSettings
from tests.integration.conftest import ltx_here, wait_until

NAMES = Names()
GOOD, BAD, BATCH = "good", "bad", "batch-1"
WORKER = "0f" * 16
QUEUE, TURN = "pocket.1", "5:me@here"
KEYS = {
    "job": NAMES.job(BAD),
    "state": NAMES.state(BAD),
    "cancel": NAMES.cancel(BAD),
    "events": NAMES.events(BAD),
    "preview": NAMES.preview(BAD),
    "lease": NAMES.lease(BAD),
    "latents": NAMES.latents(BAD),
    "result": NAMES.result(BAD),
    "embedding": NAMES.embedding("0f"),
    "embeddings": NAMES.embeddings(),
    "jobs": NAMES.jobs(),
    "batches": NAMES.batches(),
    "batch": NAMES.batch(BATCH),
    "batch_jobs": NAMES.batch_jobs(BATCH),
    "line": NAMES.line("pocket", TURN),
    "turns": NAMES.turns("pocket"),
    "readers": NAMES.readers(BAD),
    "paused": NAMES.paused(),
    "reaper": NAMES.reaper(),
    "dead": NAMES.dead(),
    "workers": NAMES.workers(),
    "worker": NAMES.worker(WORKER),
    "another worker": NAMES.worker("other"),
    "queue": queue_keys(NAMES, QUEUE)[3],
    "unacked": unacked_keys(NAMES)[0],
    "unacked_index": unacked_keys(NAMES)[1],
}
TYPES = {
    "string": lambda client, key: client.set(key, "what is this"),
    "list": lambda client, key: client.rpush(key, "what", "is"),
    "hash": lambda client, key: client.hset(key, "what", "is this"),
    "set": lambda client, key: client.sadd(key, "what"),
    "zset": lambda client, key: client.zadd(key, {"what": 1}),
    "stream": lambda client, key: client.xadd(key, {"what": "is"}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = FarmFolder(tmp_path_factory.mktemp("broker"))
    folder.create()
    server = Server(folder)
    with server.address.connect() as client:
        client.config_set("appendonly", "no")
    yield server
    server.stop()


@pytest.fixture
def client(server):
    unexpected_data.tell_once.cache_clear()
    with server.address.connect() as client:
        client.flushall()
        yield client


def job_of(job_id, **fields):
    request = GenerationRequest(prompt="a ball", seed=1, num_steps=4)
    job = prepare(request, job_id=job_id).job
    return job.model_copy(update={"submitter": "me@here", **fields})


@pytest.fixture
def farm(client, server, tmp_path):
    """A farm with a good job, a bad one in the same batch, a worker, and an embedding."""
    ledger = ClientLedger(client, NAMES)
    for item, job_id in enumerate((BAD, GOOD), 1):
        ledger.submit(job_of(job_id), Relations(batch=BATCH, item=item))
    client.hset(NAMES.batch(BATCH), mapping={"name": "two", "submitter": "me@here", "submitted_at": time.time()})
    client.zadd(NAMES.batches(), {BATCH: 1})
    return Farm.over(client, server.address.url, NAMES, str(tmp_path))


def make_heartbeat(client, tmp_path):
    settings = WorkerSettings(broker_url=None, home=tmp_path, worker_name="one")
    (tmp_path / "machine-id").write_text(WORKER)
    return Heartbeat(settings, client, "pocket", Health("w", None, None, hand_on=0))


def see_to(client, tmp_path, sent):
    """Do what a worker does: beat, run the reaper twice, and claim the good job."""
    make_heartbeat(client, tmp_path)._tell()
    limit = EmbeddingsLimit(client, NAMES, 60, 10**6)
    ledger = Ledger(client, NAMES)
    reaper = Reaper(
        client, NAMES, ledger, lambda job, *_, **__: sent.append(job.id), limit, holder="w", every=0.02, lease=1.0
    )
    wait_until(reaper._has_lock, what="the reaper's lock")  # where it never expires, somebody else set it
    for _ in range(2):
        reaper.run_once()
    return ledger


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_type(farm, client, tmp_path, key, kind, caplog):
    client.delete(KEYS[key])
    TYPES[kind](client, KEYS[key])
    right = {"jobs": "zset", "batches": "zset", "workers": "zset", "queue": "list"}.get(key)
    sent = []
    ledger = see_to(client, tmp_path, sent)
    if key != "jobs":
        assert GOOD in sent or (key, kind) == ("queue", "list"), caplog.messages  # whose items are taken for messages
        assert GOOD in {view.job.id for view in farm.jobs()}
    turns = [ledger.next("w", "one", "pocket", 64) for _ in range(2)]
    assert GOOD in [turn.job_id for turn in turns if isinstance(turn, Turn)] or key == "jobs"
    assert isinstance(ledger.claim(GOOD, "w", "one"), Claim)
    claimed = ledger.claim(BAD, "w", "one")
    assert isinstance(claimed, Claim | Refusal)
    if isinstance(claimed, Refusal):
        status = client.hget(NAMES.state(BAD), "status") if client.type(NAMES.state(BAD)) == b"hash" else None
        assert status in (None, b"cancelled"), "a refused claim has changed the job's state"
    farm.pauses()
    farm.preview(BAD)
    farm.link(BAD)
    assert isinstance(farm.workers(), list)
    if key != "worker":
        assert [worker.name for worker in farm.workers()] == ["one"]
    if key not in ("jobs", "batches", "batch", "batch_jobs"):
        (batch,) = farm.batches()
        assert GOOD in {view.job.id for view in batch.views}
    if key != "jobs" or kind == right:
        farm.places()
    else:
        with pytest.raises(BrokerError, match="damaged"):
            farm.jobs()
    cache = EmbeddingsCache(client, NAMES, 10)
    assert cache.find("m", ["a"]) == {}


@pytest.mark.parametrize(
    ("key", "kind"),
    [(key, kind) for key in ("input", "readers") for kind in TYPES if (key, kind) != ("input", "string")],
)
def test_a_damaged_key_of_what_must_not_be_removed(client, server, tmp_path, key, kind):
    """It prevents no submission, no download's start and no end. A text is a removal's own value."""
    removals, sha256 = RemovalExchanges(NAMES), "a" * 64
    ClientLedger(client, NAMES).submit(job_of(BAD))
    TYPES[kind](client, NAMES.input(sha256) if key == "input" else KEYS[key])
    assert run(client, removals.want([sha256]))
    assert run(client, removals.may_remove_input(sha256, "removing x", 0)) == "too late"
    token = run(client, removals.begin_reading(BAD))
    assert token is not None
    run(client, removals.end_reading(BAD, token))


@pytest.mark.parametrize("kind", ["string", "hash", "list", "zset"])
@pytest.mark.parametrize("key", ["line", "turns", "jobs", "batch_jobs", "batches", "workers", "paused"])
def test_a_submission_beside_a_damaged_key(client, server, tmp_path, key, kind):
    """The submission is accepted, or refused without a trace."""
    TYPES[kind](client, KEYS[key])
    ledger, job = ClientLedger(client, NAMES), job_of("new")
    try:
        with broker_errors("farm:6379"):
            ledger.submit(job, Relations(batch=BATCH, item=1))
    except BrokerError:
        assert key in ("jobs", "batch_jobs")
        assert not client.exists(NAMES.job("new"))
    else:
        assert client.exists(NAMES.job("new"))
        assert (key, kind) in {("jobs", "zset"), ("batch_jobs", "zset")} or key not in ("jobs", "batch_jobs")


def test_a_healthy_farm_is_all_seen(farm, client, tmp_path):
    """Everything that the test above leaves out for a damaged key is present otherwise."""
    sent = []
    see_to(client, tmp_path, sent)
    assert set(sent) == {GOOD, BAD}
    assert {view.job.id for view in farm.jobs()} == {GOOD, BAD}
    assert [len(batch.views) for batch in farm.batches()] == [2]
    assert set(farm.places()) == {GOOD, BAD}


@pytest.mark.parametrize("key", ["job", "state", "events"])
def test_watching_goes_on_beside_a_damaged_job(farm, client, key, monkeypatch):
    monkeypatch.setattr("ltx_client.farm.watching.BLOCK", 0.01)
    client.delete(KEYS[key])
    client.set(KEYS[key], "what is this")
    ledger = Ledger(client, NAMES)
    ledger.release(ledger.claim(GOOD, "w", "one"), "x")
    ClientLedger(client, NAMES).cancel(GOOD)
    if key == "events":
        ClientLedger(client, NAMES).cancel(BAD)
    seen = set()

    def watch():
        for update in farm.watch(BAD, GOOD):
            seen.add((update.view.job.id, update.event and update.event.type))

    if key == "events":
        watch()
    else:
        with pytest.raises(FarmError, match=BAD):
            watch()
    assert (GOOD, "claimed") in seen
    assert (GOOD, "released") in seen


BAD_SPECS = {
    "a number larger than any float": lambda spec: {**spec, "predicted_peak": 10**400},
    "a larger number yet": lambda spec: json.dumps(spec).replace(str(spec["predicted_peak"]), "9" * 5000),
    "a number of 64 bits": lambda spec: {**spec, "predicted_peak": 2**63},
    "more than the largest class": lambda spec: {**spec, "predicted_peak": 10**15},
    "not a number": lambda spec: json.dumps({**spec, "time_limit": float("nan")}),
    "infinity": lambda spec: json.dumps({**spec, "time_limit": float("inf")}),
    "a limit longer than anybody waits": lambda spec: {**spec, "time_limit": 1e308},
    "a huge size": lambda spec: {**spec, "request": {**spec["request"], "width": 10**400}},
    "a size that nobody decided": lambda spec: {**spec, "request": {**spec["request"], "width": None}},
    "steps that nobody decided": lambda spec: {**spec, "request": {**spec["request"], "num_steps": None}},
    "deep": lambda spec: "[" * 100_000,
    "deep inside": lambda spec: json.dumps(spec)[:-1] + ', "x": ' + "[" * 100_000,
    "no text": lambda spec: b"\xff\xfe",
    "empty": lambda spec: "",
}


@pytest.mark.parametrize("name", BAD_SPECS)
def test_a_record_that_cannot_be_read(farm, client, tmp_path, server, name):
    spec = json.loads(client.hget(NAMES.job(BAD), "spec"))
    bad = BAD_SPECS[name](spec)
    client.hset(NAMES.job(BAD), "spec", bad if isinstance(bad, str | bytes) else json.dumps(bad))
    sent = []
    ledger = see_to(client, tmp_path, sent)
    assert set(sent) == {GOOD}
    turns = [ledger.next("w", "one", "pocket", 64) for _ in range(2)]
    assert GOOD in [turn.job_id for turn in turns if isinstance(turn, Turn)]
    assert isinstance(ledger.claim(GOOD, "w", "one"), Claim)
    assert {view.job.id for view in farm.jobs()} == {GOOD}
    assert set(farm.places()) <= {GOOD}
    assert [len(batch.views) for batch in farm.batches()] == [1]
    env = {"LTX_BROKER_URL": server.address.url.get_secret_value(), "LTX_HOME": str(tmp_path), "HOME": str(tmp_path)}
    for command in (["jobs"], ["jobs", "--json"], ["stats"], ["batches"], ["workers"], ["submit", "a", "--dry-run"]):
        assert ltx_here(*command, env=env)
    shown = ltx_here("show", BAD, env=env, code=1)
    assert "cannot be read" in shown.output


def test_a_single_job_that_cannot_be_read_is_no_traceback(farm, client):
    client.hset(NAMES.job(BAD), "spec", "{}")
    client.zrem(NAMES.jobs(), GOOD)
    client.zrem(NAMES.batch_jobs(BATCH), GOOD)
    assert farm.jobs() == []
    assert farm.batches() == []


BAD_SNAPSHOTS = (
    "",
    "[" * 100_000,
    json.dumps({**Snapshot().model_dump(mode="json"), "attempt": 10**400}),
    json.dumps({**Snapshot().model_dump(mode="json"), "started_at": float("nan")}),
    json.dumps({**Snapshot().model_dump(mode="json"), "step_seconds": 1e300}),
)


@pytest.mark.parametrize("snapshot", BAD_SNAPSHOTS, ids=lambda text: text[:10])
def test_a_state_that_cannot_be_read(farm, client, tmp_path, snapshot):
    client.hset(NAMES.state(BAD), "snapshot", snapshot)
    sent = []
    ledger = see_to(client, tmp_path, sent)
    assert set(sent) == {GOOD}
    assert ledger.claim(BAD, "w", "one") is Refusal.UNREADABLE
    assert {view.job.id for view in farm.jobs()} == {GOOD}


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"", b"\x1b[2J", b"a" * 10_000, b"{}"])
def test_ids_that_are_none(farm, client, tmp_path, raw):
    for key in (NAMES.jobs(), NAMES.batches(), NAMES.workers(), NAMES.batch_jobs(BATCH), NAMES.embeddings()):
        client.zadd(key, {raw: 5e12 if key == NAMES.workers() else 1})
    client.hset(NAMES.paused(), raw, raw)
    client.hset(unacked_keys(NAMES)[0], raw, raw)
    client.set(NAMES.reaper(), raw, px=1)
    sent = []
    time.sleep(0.01)
    see_to(client, tmp_path, sent)
    assert set(sent) == {GOOD, BAD}
    assert {view.job.id for view in farm.jobs()} == {GOOD, BAD}
    assert [worker.name for worker in farm.workers()] == ["one"]
    assert BATCH in {batch.id for batch in farm.batches()}
    assert len(farm.pauses()) == 1


def test_another_holder_of_the_reapers_lock_may_have_any_name(client, tmp_path):
    client.set(NAMES.reaper(), b"\xff\xfe", px=60_000)
    reaper = Reaper(client, NAMES, None, None, None, holder="w", every=1.0, lease=1.0)
    assert not reaper._has_lock()


def test_a_damaged_worker_is_left_out_and_the_others_are_seen(farm, client, tmp_path):
    make_heartbeat(client, tmp_path)._tell()
    client.zadd(NAMES.workers(), {"other": time.time()})
    client.hset(NAMES.worker("other"), mapping={"id": "other", "budget_gb": "1e999"})
    assert [worker.name for worker in farm.workers()] == ["one"]


def test_a_damaged_key_of_workers_own_is_written_anew(client, tmp_path):
    client.set(NAMES.worker(WORKER), "what is this")
    make_heartbeat(client, tmp_path)._tell()
    fields = {name.decode(): value.decode() for name, value in client.hgetall(NAMES.worker(WORKER)).items()}
    assert WorkerInfo.model_validate(fields).name == "one"


@pytest.mark.parametrize("kind", TYPES)
def test_a_damaged_list_of_workers_is_made_anew_by_the_next_beat(farm, client, tmp_path, kind, caplog):
    client.delete(NAMES.workers())
    TYPES[kind](client, NAMES.workers())
    make_heartbeat(client, tmp_path)._tell()
    assert client.type(NAMES.workers()) == b"zset"
    assert [worker.name for worker in farm.workers()] == ["one"]
    assert (f"the key {NAMES.workers()} had a value of the wrong kind" in caplog.text) == (kind != "zset")


def test_a_user_of_an_older_version_beats_beside_a_damaged_list(client, server, tmp_path):
    """That user lacks the right to remove the key."""
    client.set(NAMES.workers(), "what is this")
    client.acl_setuser("old", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-del"])
    try:
        user = dict(client.connection_pool.connection_kwargs, username="old", password="")
        with redis.Redis(**{name: user[name] for name in ("host", "port", "username", "password")}) as old:
            make_heartbeat(old, tmp_path)._tell()
    finally:
        client.acl_deluser("old")
    assert client.hget(NAMES.worker(WORKER), "name") == b"one"


def test_an_error_that_is_not_of_a_key_is_told_as_one_sentence(client):
    with pytest.raises(BrokerError, match="refused a command") as raised, broker_errors("farm:6379"):
        client.execute_command("NO-SUCH-COMMAND")
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("key", ["jobs", "batches", "workers", "paused"])
@pytest.mark.parametrize("doctor", ["ltx", "ltx-worker"])
def test_doctors_name_damaged_keys(farm, client, server, tmp_path, key, doctor):
    client.delete(KEYS[key])
    client.set(KEYS[key], "what is this")
    env = {"LTX_BROKER_URL": server.address.url.get_secret_value(), "LTX_HOME": str(tmp_path), "HOME": str(tmp_path)}
    if doctor == "ltx":
        said = ltx_here("doctor", env=env, code=1).output
    else:
        checks = BrokerChecks(lambda: client, server.address.url, NAMES).checks()
        said = "\n".join(finding.text for finding in run_checks(checks))
    assert f"{KEYS[key]} is damaged" in said
    assert "the check itself failed" not in said
