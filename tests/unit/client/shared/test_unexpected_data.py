"""Test what one side reads and another may have written: hostile values are ignored, and nothing else happens."""

import hashlib
import json
import time

import pytest
from pydantic import SecretStr, ValidationError

from ltx_client.errors import FarmError, StorageUnreachable
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs import files
from ltx_client.farm.operations import Operations
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import NO_RELATIONS, parse_relations
from ltx_client.protocol.pauses import Pause, parse_pause
from ltx_client.protocol.state import Status
from ltx_client.shared.storage.store import Storage
from ltx_client.shared.unexpected_data import tell_once
from ltx_worker.engine.hashes import RememberedHashes
from ltx_worker.engine.messages import Previewed, Resuming, Stepped, Written
from ltx_worker.ledger.embeddings_cache import EmbeddingsCache, EmbeddingsLimit
from ltx_worker.settings import WorkerSettings
from tests.storages import made

OUTSIDE = b"what is none of the farm's business"
NAMES_OF_FILES = [
    "../secret.mp4",
    "/etc/passwd",
    "a/../../secret.mp4",
    ".ltx-storage",
    "a\0b",
    "a\nb.mp4",
    "\x1b[2J.mp4",
]


@pytest.fixture
def storage(tmp_path):
    return made(tmp_path / "storage")


@pytest.fixture
def farm(redis_client, names, storage):
    return Farm.over(redis_client, SecretStr("redis://localhost"), names, str(storage.local_folder))


def end(ledger, job, redis_client, names, **result):
    """End the job as done, by somebody with a worker's rights, with a false result."""
    attempt = ledger.claim(job.id, "w1", "one")
    good = {"video": f"{attempt.name}.mp4", "sidecar": f"{attempt.name}.json", "size": len(OUTSIDE)}
    good["sha256"] = hashlib.sha256(OUTSIDE).hexdigest()
    ledger.commit(attempt, events.Done(result=Result(**good)))
    snapshot = json.loads(redis_client.hget(names.state(job.id), "snapshot"))
    snapshot["result"] = {**good, **result}
    redis_client.hset(names.state(job.id), "snapshot", json.dumps(snapshot))


@pytest.mark.parametrize("video", [*NAMES_OF_FILES, "another-job.1.mp4", "", "{job}.1/../../secret.mp4", "{job}.\0"])
def test_a_result_leads_to_no_file_but_its_own(farm, ledger, job, redis_client, names, storage, tmp_path, video):
    (tmp_path / "secret.mp4").write_bytes(OUTSIDE)
    (storage.local_folder / "another-job.1.mp4").write_bytes(OUTSIDE)
    end(ledger, job, redis_client, names, video=video.replace("{job}", job.id))
    with pytest.raises(StorageUnreachable):
        farm.download(job.id, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert [view.status for view in farm.jobs()] == [Status.DONE], "it is shown all the same"


@pytest.mark.parametrize("name", NAMES_OF_FILES)
def test_a_worker_reports_no_such_name(name):
    for field in ("video", "sidecar", "sha256"):
        with pytest.raises(ValidationError):
            Result(**{"video": "a.mp4", "sidecar": "a.json", "size": 1, "sha256": "00", field: name})


def test_a_video_that_is_larger_than_its_result_says_is_not_taken(
    farm, ledger, job, redis_client, names, storage, tmp_path
):
    end(ledger, job, redis_client, names, size=5)
    (name,) = (view.snapshot.result.video for view in farm.jobs())
    (storage.local_folder / name).write_bytes(OUTSIDE)
    with pytest.raises(StorageUnreachable, match="more than the 5 bytes"):
        farm.download(job.id, tmp_path / "out.mp4")


@pytest.mark.parametrize("size", [0, 2**40, 2**62])
@pytest.mark.parametrize("by", ["storage", "link"])
def test_a_size_that_no_video_of_the_request_has_bounds_nothing(
    farm, ledger, job, redis_client, names, storage, tmp_path, monkeypatch, size, by
):
    """An endless link would fill the disk of the downloading machine."""
    most = 2 * 3 * job.request.width * job.request.height * job.request.num_frames + 16 * 10**6
    end(ledger, job, redis_client, names, size=max(size, most + 1))
    fetched = []
    monkeypatch.setattr(files, "fetch_link", lambda *arguments: fetched.append(arguments[-1]))
    monkeypatch.setattr(Storage, "get", lambda *arguments: fetched.append(arguments[-1]))
    if by == "link":
        farm.storage_url = None
        monkeypatch.setattr(Operations, "link", a_link)
    with pytest.raises(StorageUnreachable, match=f"but a video of its size and length has at most {most:,}"):
        farm.download(job.id, tmp_path / "out.mp4")
    assert fetched == []
    snapshot = json.loads(redis_client.hget(names.state(job.id), "snapshot"))
    snapshot["result"]["size"] = most
    redis_client.hset(names.state(job.id), "snapshot", json.dumps(snapshot))
    farm.download(job.id, tmp_path / "out.mp4")
    assert fetched == [most]


def a_link(*_):
    yield from ()
    return "http://127.0.0.1:1/videos/a.mp4"


@pytest.mark.parametrize("fraction", [-1, 1.5, 1e300, "NaN", "-Infinity"])
def test_a_job_is_not_more_than_loaded(fraction):
    with pytest.raises(ValidationError):
        events.Loading.model_validate_json(f'{{"type": "loading", "fraction": {fraction}, "message": ""}}')


@pytest.mark.parametrize("preview", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_a_preview_that_is_no_jpeg_is_none(farm, job, redis_client, names, preview):
    redis_client.set(names.preview(job.id), preview)
    assert farm.preview(job.id) is None
    redis_client.set(names.preview(job.id), b"\xff\xd8\xff\xe0")
    assert farm.preview(job.id) == b"\xff\xd8\xff\xe0"


PAUSE = {"of": "worker", "id": "w1", "name": "mac", "by": "ann@mac", "at": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"at": -1e308},
        {"at": float("-inf")},
        {"at": float("nan")},
        {"at": 1e300},
        {"of": "farm"},
        {"id": "w2"},
        {"of": 7},
    ],
    ids=str,
)
def test_a_pause_that_cannot_be_read_holds_all_the_same(change):
    assert parse_pause("worker:w1", json.dumps(PAUSE).encode()) == Pause(**PAUSE)
    pause = parse_pause("worker:w1", json.dumps({**PAUSE, **change}).encode())
    assert (pause.of, pause.id, pause.at, pause.by) == ("worker", "w1", 0.0, "somebody")


def test_the_index_of_embeddings_loses_what_is_no_hash(redis_client, names):
    good = "0" * 64
    redis_client.set(names.embedding(good), bytes(40))
    strange = [b"\xff\xfe", b"", b"../x", b"0" * 63, b"0" * 10**5]
    later = dict.fromkeys(strange, time.time() + 1)
    redis_client.zadd(names.embeddings(), {good: time.time(), **later, b"inf": float("inf")})
    limit = EmbeddingsLimit(redis_client, names, ttl=100, limit=100)
    for _ in range(2):
        limit.trim()
        assert redis_client.zrange(names.embeddings(), 0, -1) == [good.encode()]


def test_an_embedding_that_is_too_large_is_not_read(redis_client, names, monkeypatch):
    cache = EmbeddingsCache(redis_client, names, ttl=100)
    digest = hashlib.sha256(b"m\na ball").hexdigest()
    redis_client.set(names.embedding(digest), bytes(64 * 10**6 + 1))
    assert cache.find("m", ["a ball"]) == {}
    redis_client.set(names.embedding(digest), b"1")
    assert cache.find("m", ["a ball"]) == {"a ball": b"1"}
    redis_client.delete(names.embedding(digest))
    redis_client.lpush(names.embedding(digest), b"1")
    assert cache.find("m", ["a ball"]) == {}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Resuming, {"step": -3}),
        (Resuming, {"step": 2**64}),
        (Stepped, {"step": -1, "steps": 4, "seconds": 0}),
        (Stepped, {"step": 1, "steps": -4, "seconds": 0}),
        (Previewed, {"step": -1, "jpeg": ""}),
        (Written, {"output": "a", "size": -1, "sha256": "", "seconds": 0}),
    ],
)
def test_an_engine_says_no_number_that_no_event_can_have(kind, fields):
    with pytest.raises(ValidationError):
        kind.model_validate(fields)


@pytest.mark.parametrize("content", ["[]", "{", '{"%s": 7}', '{"%s": "no hash"}', '{"%s": null}', "[" * 10**5])
def test_a_remembered_hash_that_is_none_is_made_again(tmp_path, content):
    model, memory = tmp_path / "model", tmp_path / "hashes.json"
    model.write_bytes(b"weights")
    right = RememberedHashes(memory).of([model])
    (key,) = json.loads(memory.read_text())
    memory.write_text(content.replace("%s", key.replace("\\", "\\\\").replace('"', '\\"')))
    assert RememberedHashes(memory).of([model]) == right


WORKER = {"id": "w", "name": "w", "chip": "c", "memory": 10**9, "budget_gb": 8, "variant": "pocket", "version": "1"}
WORKER |= {"started_at": 1, "seen_at": 1, "temperature": 40}
WIDE = ("1e308", "-1e308", "1" + "0" * 300, "-" + "9" * 300, "1e999", "nan", str(2**63))


@pytest.mark.parametrize("value", WIDE, ids=lambda value: value[:6])
@pytest.mark.parametrize("field", ["memory", "budget_gb", "protocol", "started_at", "seen_at", "temperature"])
def test_a_worker_with_a_number_beyond_all_bounds_is_left_out_and_named(
    farm, redis_client, names, field, value, caplog
):
    """In a table it would be a line of hundreds of digits."""
    tell_once.cache_clear()
    for worker, fields in (("w", WORKER), ("x", {**WORKER, "id": "x", field: value})):
        redis_client.zadd(names.workers(), {worker: time.time()})
        redis_client.hset(names.worker(worker), mapping=fields)
    (seen,) = farm.workers()
    assert seen.id == "w"
    assert "worker x is left out" in caplog.text
    assert field in caplog.text


@pytest.mark.parametrize("value", WIDE, ids=lambda value: value[:6])
def test_other_numbers_of_a_job_are_bounded_too(value):
    assert parse_relations(f'{{"batch": "b", "item": {value}}}') == NO_RELATIONS
    with pytest.raises(ValidationError):
        WorkerSettings(worker_memory_gb=value)


def test_a_record_that_is_damaged_is_said_to_be(farm, job, redis_client, names):
    redis_client.hset(names.state(job.id), "snapshot", '{"status": "done", "result": {"video": 7}}')
    with pytest.raises(FarmError, match="cannot be read"):
        farm.view(job.id)
