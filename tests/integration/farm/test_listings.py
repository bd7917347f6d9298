"""Test that listing a farm changes nothing of it: a user who may only read gets an answer, and nothing is refused."""

import time

import pytest

from ltx_client.farm.batches import JUST_NOTED
from ltx_client.farm.farm import Farm
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.farm.retention import find_old
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.names import Names
from ltx_worker.ledger.ledger import Ledger
from tests.integration.broker.test_damaged_keys import job_of, make_heartbeat
from tests.integration.conftest import ltx_here

NAMES = Names()
BATCH, EMPTY = "0199c0de-0000-7000-8000-00000000beef", "0199c0de-0000-7000-8000-00000000dead"
JOBS = [f"0199c0de-0000-7000-8000-00000000000{number}" for number in range(4)]
MAY = ["+@read", "+@connection", "+info", "+time", "+acl|dryrun", "-@write", "-@scripting"]
LISTINGS = [
    *((name, *how) for name in ("jobs", "batches", "workers", "stats") for how in ((), ("--json",))),
    ("jobs", "--batch", BATCH),
    ("show", JOBS[0]),
    ("gc", "--older-than", "0h", "--dry-run"),
]

pytestmark = pytest.mark.lane("quick")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = FarmFolder(tmp_path_factory.mktemp("broker"))
    folder.create()
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture
def client(server):
    with server.address.connect() as client:
        client.flushall()
        client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">pw", "%R~*", *MAY)
        client.acl_log_reset()
        yield client


@pytest.fixture
def farm(client, server, tmp_path):
    """A farm with jobs of each state in a batch, an old batch without jobs, a worker, and a paused queue."""
    client_ledger, ledger = ClientLedger(client, NAMES), Ledger(client, NAMES)
    for item, job_id in enumerate(JOBS, 1):
        client_ledger.submit(job_of(job_id), Relations(batch=BATCH, item=item))
    ledger.claim(JOBS[1], "w", "one")
    client_ledger.cancel(JOBS[2])
    client_ledger.pause(JOBS[3])
    for batch, submitted_at in ((BATCH, time.time()), (EMPTY, time.time() - 2 * JUST_NOTED)):
        about = {"name": "shots.txt", "submitter": "me@here", "submitted_at": submitted_at}
        client.hset(NAMES.batch(batch), mapping=about)
        client.zadd(NAMES.batches(), {batch: submitted_at})
    make_heartbeat(client, tmp_path)._tell()
    with Farm.over(client, server.address.url, NAMES, str(tmp_path)) as farm:
        farm.pause_queue("pocket")
        yield farm


@pytest.fixture
def reader_env(farm, server, no_farm_env):
    return {**no_farm_env, "LTX_BROKER_URL": f"redis://reader:pw@127.0.0.1:{server.address.port}/0"}


def everything(client):
    return {key: client.dump(key) for key in client.keys("*")}


def refused(client):
    return [entry["object"] for entry in client.acl_log()]


@pytest.mark.parametrize("listing", LISTINGS, ids=" ".join)
def test_a_listing_reads(client, reader_env, listing):
    before = everything(client)
    assert ltx_here(*listing, env=reader_env).stdout
    assert refused(client) == []
    assert everything(client) == before


def test_this_reader_may_not_write(client, reader_env):
    before = everything(client)
    assert "does not let this user do that" in ltx_here("cancel", JOBS[0], env=reader_env, code=69).stderr
    assert refused(client)
    assert everything(client) == before


def test_what_is_known_of_an_empty_batch_goes_with_what_is_old(client, farm):
    assert [batch.id for batch in farm.batches()] == [BATCH]
    assert client.exists(NAMES.batch(EMPTY))
    list(farm.remove(find_old(*farm.all_jobs(), None, 0, farm.now()), None))
    assert not client.exists(NAMES.batch(EMPTY))
    assert client.zrange(NAMES.batches(), 0, -1) == [BATCH.encode()]
