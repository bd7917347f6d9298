"""Fuzz a farm's keys as a worker reads them: its reaper, and its claim of a job."""

import json

import pytest
from hypothesis import strategies as st

from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol.jobs import UnreadableJob
from ltx_client.protocol.names import Names
from ltx_client.shared.celery.celery_settings import queue_keys
from ltx_worker.ledger.embeddings_cache import EmbeddingsLimit
from ltx_worker.ledger.ledger import Claim, Ledger, Refusal
from ltx_worker.ledger.selection import Turn
from ltx_worker.queue.reaper import Reaper
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import mutated_fields, mutated_json, odd_bytes, odd_json
from tests.fuzz.test_events import SNAPSHOTS
from tests.fuzz.test_jobs import ID, JOBS, LINKS, OTHER, RECORD, SPECS
from tests.fuzz.test_queue_items import ITEMS

NAMES = Names()
GOOD = JOBS[0].model_copy(update={"id": OTHER, "submitter": "you@there"})
WISHES = st.sampled_from((b"", b"x", b"99", b"-1", b"9" * 5000, b"1.5", b"\xff", b"\xc2\xb2", b"0", b"9"))
FARM = {
    **RECORD,
    "snapshot": json.dumps(SNAPSHOTS[4]).encode(),
    "status": b"running",
    "attempt": b"1",
    "token": b"t",
    "seq": b"5",
    "message": json.dumps(ITEMS[0]).encode(),
    "id": ID.encode(),
}
"""A job's record and state, a message in its queue, and an id in the list of jobs."""
STATE = ("snapshot", "status", "attempt", "token", "seq")
ODD = [name for name in (*FARM, "held") if name not in ("attempt", "seq")]
"""All but the numbers that only scripts write."""


def in_turn(ledger):
    """Return the jobs that a worker can take, in any order."""
    found = set()
    while isinstance(turn := ledger.next("w", "mac", GOOD.variant, 512, leave=found), Turn):
        found.add(turn.job_id)
    return found


@pytest.fixture(scope="module")
def read_farm(tmp_path_factory):
    """Read the farm on a real server, which has more commands, and runs scripts faster, than a fake."""
    folder = FarmFolder(tmp_path_factory.mktemp("broker"))
    folder.create()
    server = Server(folder)
    with server.address.connect() as client:
        client.config_set("appendonly", "no")
        submit, ledger = ClientLedger(client, NAMES).submit, Ledger(client, NAMES)
        queue = queue_keys(NAMES, GOOD.queue)[0]

        def read(farm):
            client.flushall()
            submit(GOOD)
            record = {name: value for name, value in farm.items() if name in (*RECORD, "held")}
            state = {name: value for name, value in farm.items() if name in STATE}
            for key, fields in ((NAMES.job(ID), record), (NAMES.state(ID), state)):
                if fields:
                    client.hset(key, mapping=fields)
            client.zadd(NAMES.jobs(), {farm.get("id", b""): 1, ID: 1})
            client.lpush(queue, farm.get("message", b""))
            sent = []
            limit = EmbeddingsLimit(client, NAMES, 60, 10**6)
            reaper = Reaper(
                client,
                NAMES,
                ledger,
                lambda job, *_, **__: sent.append(job.id),
                limit,
                holder="w",
                every=1.0,
                lease=1.0,
            )
            for _ in range(2):
                reaper.run_once()
            assert sent or client.llen(queue), "no message has a worker take a job"
            assert OTHER in in_turn(ledger), "a good job has no turn"
            claimed = ledger.claim(ID, "w", "mac")
            if isinstance(claimed, Refusal):
                return f"not claimed: {claimed}"
            assert isinstance(claimed, Claim)
            try:
                assert ledger.job(claimed).id == ID
            except UnreadableJob as error:
                return str(error)
            assert not any(owner.ended for owner in ledger.ownership([ID]).values())
            return None

        yield read
    server.stop()


def test_farms(campaign, read_farm):
    odd = odd_json() | odd_bytes()
    mutated = mutated_fields(
        FARM,
        {
            "spec": mutated_json(SPECS),
            "links": mutated_json(LINKS),
            "priority": WISHES,
            "snapshot": mutated_json(SNAPSHOTS),
            "status": st.sampled_from((b"", b"\xff", b"resting", b"queued", b"done")),
            "attempt": st.sampled_from((b"0", b"2", b"99")),
            "seq": st.sampled_from((b"0", b"4", b"9999999999")),
            "message": mutated_json(ITEMS),
            "id": odd,
        },
    )
    odd_farms = st.dictionaries(st.sampled_from(ODD), odd)
    campaign(Kind("farms", read_farm, (FARM,), mutated, odd_farms), one_in=10)  # each takes as long as ten others
