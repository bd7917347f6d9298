"""Fuzz what workers write and watchers read: events, snapshots, and workers' records."""

import json
import tracemalloc

import fakeredis
import pytest
from hypothesis import strategies as st

from ltx_client.farm.jobs.views import Follower, JobView
from ltx_client.protocol import events
from ltx_client.protocol.events import UnreadableEvent, parse_event
from ltx_client.protocol.jobs import UnreadableJob
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Snapshot, apply, parse_snapshot
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.live_workers import live_workers
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import mutated_bytes, mutated_fields, mutated_json, odd_bytes, odd_json
from tests.fuzz.screens import show_job, show_redrawn, show_update, show_workers
from tests.fuzz.test_jobs import JOBS

AT = 1.76e9
STAGES = [
    events.StagePlan(name="text", label="encoding the prompt", counts="text", of=2),
    events.StagePlan(name="denoise", label="denoising", counts="step", of=8),
    events.StagePlan(name="decode", label="decoding", counts="frame", of=25),
]
NEWS = [
    events.Claimed(at=AT, attempt=1, worker="id-1", worker_name="mac one", stages=STAGES),
    events.Loading(at=AT, fraction=0.5, message="the transformer"),
    events.Resumed(at=AT, step=2, reason="it was begun with another dtype"),
    events.TextEncoded(at=AT),
    events.StageBegan(at=AT, stage="denoise"),
    events.Stepped(at=AT, step=3, steps=8, seconds=0.25),
    events.Previewed(at=AT, step=3),
    events.Progress(at=AT, stage="decode", done=9, of=25, seconds=0.5),
    events.Decoded(at=AT, frames=25),
    events.Uploading(at=AT, size=10**6),
    events.Delayed(at=AT, reason="the storage is full"),
    events.Released(at=AT, reason="worker mac one is shutting down"),
    events.Failed(at=AT, error="the engine died"),
    events.Cancelled(at=AT),
    events.Done(at=AT, result=events.Result(video="j.1.mp4", sidecar="j.1.json", size=10**6, sha256="0" * 64)),
    events.Done(
        at=AT,
        result=events.Result(
            video="j.1.mp4",
            sidecar="j.1.json",
            size=10**6,
            sha256="0" * 64,
            poster="j.1.jpg",
            poster_sha256="1" * 64,
        ),
    ),
]
EVENTS = [event.model_dump(mode="json") for event in NEWS]
SNAPSHOTS = []
for event in NEWS:
    SNAPSHOTS.append(apply(Snapshot.model_validate(SNAPSHOTS[-1]) if SNAPSHOTS else Snapshot(), event).model_dump())
SNAPSHOTS = [json.loads(json.dumps(snapshot)) for snapshot in SNAPSHOTS]
WORKER = WorkerInfo(
    id="id-1",
    name="mac one",
    chip="Apple M4 Max",
    memory=64 * 2**30,
    budget_gb=36.0,
    variant="pocket",
    version="0.1.0",
    started_at=AT,
    seen_at=AT,
    job=JOBS[0].id,
)
WORKER_HASH = {name: str(value).encode() for name, value in WORKER.fields().items()}
NAMES = Names()


def view_of(snapshot):
    return JobView(JOBS[0], AT, snapshot, cancel_asked=False, leased=True)


def read_stream(entries):
    """Read a stream's entries as `ltx watch` does; whatever they are, it ends at the stored state."""
    stored = apply(Snapshot(seq=len(entries)), NEWS[-1])
    follower, view = Follower(), view_of(stored)
    numbered = list(enumerate([*entries, NEWS[-1].model_dump_json().encode()], 1))
    for update in follower.advance(numbered, view):
        show_update(update)
    assert follower.ended
    assert follower.seq == stored.seq
    assert update.snapshot.ended
    show_redrawn(view, update.snapshot)
    for data in entries:
        try:
            parse_event(data)
        except UnreadableEvent as error:
            return str(error)
    return None


def read_snapshot(data):
    try:
        snapshot = parse_snapshot(data)
    except UnreadableJob as error:
        return str(error)
    assert parse_snapshot(snapshot.model_dump_json()) == snapshot
    show_job(view_of(snapshot), [WORKER])
    show_redrawn(view_of(snapshot), snapshot)
    for event in NEWS:
        after = apply(snapshot, event)
        show_update(next(Follower().advance([], view_of(after))))
    return None


@pytest.fixture(scope="module")
def read_worker():
    with fakeredis.FakeRedis() as client:
        client.hset(NAMES.worker("id-2"), mapping={**WORKER_HASH, "id": b"id-2", "name": b"mac two"})
        client.zadd(NAMES.workers(), {"id-1": AT, "id-2": AT, b"\xff": AT})

        def read(fields):
            client.delete(NAMES.worker("id-1"))
            if fields:
                client.hset(NAMES.worker("id-1"), mapping=fields)
            workers = live_workers(client, NAMES)
            show_workers(workers)
            assert "id-2" in {worker.id for worker in workers}, "a good worker was hidden by a bad one"
            show_job(view_of(Snapshot()), workers)
            return None if len(workers) == 2 else "it is left out"

        yield read


def odd():
    return odd_json() | odd_bytes()


def test_streams(campaign):
    mutated = st.lists(mutated_json(EVENTS), min_size=1, max_size=3)
    valid = [json.dumps(event).encode() for event in EVENTS]
    campaign(Kind("events", read_stream, (valid,), mutated, st.lists(odd(), min_size=1, max_size=3)))


def test_snapshots(campaign):
    valid = tuple(json.dumps(snapshot).encode() for snapshot in SNAPSHOTS)
    mutated = mutated_json(SNAPSHOTS) | mutated_bytes(valid)
    campaign(Kind("snapshots", read_snapshot, valid, mutated, odd()))


def test_workers(campaign, read_worker):
    numbers = st.sampled_from((b"", b"nan", b"inf", b"-1", b"1e308", b"9" * 5000, b"1e999", b"0", b"3.5", b"\xff"))
    texts = st.sampled_from((b"", b"\xed\xa0\x80", b"[/red]", b"\x1b[2J", b"x" * 100_000, b"paused", b"\\"))
    mutated = mutated_fields(WORKER_HASH, dict.fromkeys(WORKER_HASH, numbers | texts))
    odd_fields = st.dictionaries(st.sampled_from([*WORKER_HASH, b"\xff", "why_paused"]), odd() | numbers, max_size=12)
    campaign(Kind("workers", read_worker, (WORKER_HASH,), mutated, odd_fields))


def test_more_steps_than_there_are_draw_no_longer_bar():
    stages = [{**stage, "of": 1, "done": 2**40} for stage in SNAPSHOTS[5]["stages"]]
    snapshot = parse_snapshot(json.dumps({**SNAPSHOTS[5], "step": 2**40, "steps": 1, "stages": stages}))
    tracemalloc.start()
    show_redrawn(view_of(snapshot), snapshot)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
