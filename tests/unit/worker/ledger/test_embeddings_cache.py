"""Test the embeddings cache: what is stored, what is found again, what is refused, and how it is limited."""

from dataclasses import replace

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ltx_worker.engine.hashes import RememberedHashes
from ltx_worker.engine.packing.embeddings import EmbeddingMaker, EmbeddingRefused, origin, pack, unpack
from ltx_worker.ledger.embeddings_cache import MAX_PENDING, EmbeddingsCache, EmbeddingsLimit

TEXT_ENCODER = {"text_encoder": "a" * 64, "bits": 8}
MAKER = EmbeddingMaker(text=TEXT_ENCODER, dtype="mlx.core.bfloat16", device="M4", mlx="1", version="1")
SHAPE = (1, 5, 16)
TEXT = "a red ball"
ORIGIN = origin(MAKER.digest, TEXT)
ARRAY = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
ROUNDED = (ARRAY.view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.fixture
def cache(redis_client, names):
    cache = EmbeddingsCache(redis_client, names, ttl=100)
    cache.start()
    yield cache
    cache.stop()


def stored(cache, embeddings, maker="m"):
    """Offer embeddings and wait until they are stored, which a stop does."""
    cache.offer(maker, embeddings)
    cache._pending.put(None)
    cache._thread.join(60)


@pytest.mark.parametrize("array", [ARRAY, ROUNDED], ids=["float32", "bfloat16"])
def test_an_embedding_comes_back_bit_for_bit(array):
    back = unpack(pack(array, ORIGIN), ORIGIN, SHAPE)
    assert back.dtype == np.float32
    assert back.tobytes() == array.tobytes()


def test_bfloat16_takes_half_the_bytes():
    wide, narrow = np.zeros((1, 256, 64), np.float32) + np.float32(0.1), np.ones((1, 256, 64), np.float32)
    assert len(pack(wide, "")) - len(pack(narrow, "")) == 256 * 64 * 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-30],
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        lambda data: b"",
        lambda data: b"not an archive",
        lambda data: pack(ARRAY[:, :4], ORIGIN),
        lambda data: pack(ARRAY * np.float32("nan"), ORIGIN),
        lambda data: pack(ARRAY, origin(replace(MAKER, text={**TEXT_ENCODER, "bits": 4}).digest, TEXT)),
        lambda data: pack(ARRAY, origin(MAKER.digest, "a blue cube")),
    ],
    ids=["cut", "flipped", "empty", "foreign", "short", "not finite", "another maker", "another text"],
)
def test_what_is_not_the_embedding_is_refused(damage):
    with pytest.raises(EmbeddingRefused):
        unpack(damage(pack(ARRAY, ORIGIN)), ORIGIN, SHAPE)


@pytest.mark.parametrize("name", ["text_encoder", "bits", "dtype", "device", "mlx", "version"])
def test_another_maker_has_another_digest(name):
    change = {"text": {**TEXT_ENCODER, name: "other"}} if name in TEXT_ENCODER else {name: "other"}
    assert replace(MAKER, **change).digest != MAKER.digest


def test_a_text_is_found_by_its_maker_and_by_no_other(cache, redis_client, names):
    stored(cache, {"a ball": b"1", "": b"2"})
    assert cache.find("m", ["a ball", "", "a cube"]) == {"a ball": b"1", "": b"2"}
    assert cache.find("another", ["a ball"]) == {}
    assert redis_client.zcard(names.embeddings()) == 2
    assert len(redis_client.keys(names.embedding("*"))) == 2


def test_being_read_prolongs_its_time(cache, redis_client, names):
    stored(cache, {"a ball": b"1"})
    (key,) = redis_client.keys(names.embedding("*"))
    redis_client.expire(key, 3)
    before = redis_client.zrange(names.embeddings(), 0, -1, withscores=True)[0][1]
    cache.find("m", ["a ball"])
    assert redis_client.ttl(key) > 90
    assert redis_client.zrange(names.embeddings(), 0, -1, withscores=True)[0][1] > before


def test_while_redis_is_away_nothing_is_found_nothing_is_stored_and_nobody_waits(names):
    nowhere = redis.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))
    cache = EmbeddingsCache(nowhere, names, ttl=100)
    assert cache.find("m", ["a ball"]) == {}
    for _ in range(MAX_PENDING + 5):  # nobody stores yet: the queue is full, and stays bounded
        cache.offer("m", {"a ball": b"1"})
    assert cache._pending.qsize() == MAX_PENDING
    cache.start()
    cache.stop()
    assert not cache._thread.is_alive()


def test_the_limit_removes_what_was_not_used_for_the_longest_time(cache, redis_client, names):
    stored(cache, {text: bytes(40) for text in "abcd"})
    limit = EmbeddingsLimit(redis_client, names, ttl=100, limit=100)
    cache.find("m", ["a"])
    limit.trim()
    assert cache.find("m", list("abcd")).keys() == {"a", "d"}
    limit.trim()
    assert redis_client.zcard(names.embeddings()) == 2


def test_a_reaper_that_another_one_stood_in_for_sees_what_that_one_has_removed(cache, redis_client, names):
    stored(cache, {text: bytes(40) for text in "abcd"})
    first, second = (EmbeddingsLimit(redis_client, names, ttl=100, limit=limit) for limit in (160, 80))
    first.trim()
    second.trim()
    assert cache.find("m", list("abcd")).keys() == {"c", "d"}
    first.trim()  # 160 bytes by its memory, 80 in truth
    assert cache.find("m", list("abcd")).keys() == {"c", "d"}


def test_the_index_forgets_what_has_expired(cache, redis_client, names):
    stored(cache, {"a": b"1", "b": b"2"})
    limit = EmbeddingsLimit(redis_client, names, ttl=100, limit=100)
    limit.trim()
    oldest = redis_client.zrange(names.embeddings(), 0, 0)[0]
    redis_client.zincrby(names.embeddings(), -200, oldest)
    limit.trim()
    assert redis_client.zcard(names.embeddings()) == 1


def test_a_hash_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    model, memory = tmp_path / "model", tmp_path / "hashes.json"
    model.write_bytes(b"weights")
    first = RememberedHashes(memory).of([model])
    monkeypatch.setattr("ltx_worker.engine.hashes.file_hash", lambda files: "read again")
    assert RememberedHashes(memory).of([model]) == first
    model.write_bytes(b"other weights")
    assert RememberedHashes(memory).of([model]) == "read again"
    memory.write_text("damaged")
    assert RememberedHashes(memory).of([model]) == "read again"
    assert RememberedHashes(tmp_path / "nowhere" / "hashes.json").of([model]) == "read again"
