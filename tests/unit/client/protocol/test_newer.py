"""Test that what a newer version has written is told from what is damaged, and is shown as far as it is known."""

import dataclasses
import json

import pytest
from pydantic import SecretStr

from ltx_client.errors import FarmError, UsageError
from ltx_client.farm.batches import derived_id
from ltx_client.farm.describe import describe_job
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.obstacles import why_not_taken
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol import PROTOCOL_VERSION
from ltx_client.protocol.fair_turns import LEVEL_STEP, line_entry, parse_entry
from ltx_client.protocol.jobs import NO_RELATIONS, NewerVersion, UnreadableJob, parse_job
from ltx_client.protocol.state import NewerVersion as NewerState
from ltx_client.protocol.state import Snapshot, Stage, Status, parse_snapshot
from ltx_client.protocol.versions import features
from ltx_client.protocol.versions.features import FEATURES, Feature, highest_level
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.live_workers import live_workers
from ltx_client.terminal.output import status_word
from ltx_models.memory import MEMORY_CLASSES
from ltx_models.request import ConditioningItem
from tests.stored_farm import StoredFarm

PICTURE, FILE = "a" * 64, "b" * 64
ITEM = {"kind": "image", "source": f"sha256:{PICTURE}"}


@pytest.fixture
def record(make_job):
    """Return a job's record with other values; those of the request by their paths."""

    def make(**changes):
        data = make_job().model_dump(mode="json")
        for name, value in changes.items():
            holder = data["request"] if name in data["request"] or name.startswith("_") else data
            holder[name.removeprefix("_")] = value
        return json.dumps(data)

    return make


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"_loras": [{"file": f"sha256:{FILE}", "strength": 1}]}, "request.loras"),
        ({"deadline": 5}, "deadline"),
        ({"conditioning": [ITEM, {**ITEM, "kind": "audio"}]}, "request.conditioning.1.kind"),
        ({"conditioning": [{**ITEM, "mask": "x"}]}, "request.conditioning.0.mask"),
        ({"stg_mode": "attention_heads"}, "request.stg_mode"),
        ({"protocol": 2, "_loras": []}, "protocol version 2"),
    ],
)
def test_what_this_version_does_not_know_is_newer(record, changes, unknown):
    with pytest.raises(NewerVersion, match=f"{unknown}.*upgrade the older side") as raised:
        parse_job(record(**changes))
    known = raised.value.job
    assert known.request.prompt == "a red ball" and known.newer == str(raised.value)
    assert "newer" not in known.model_dump_json() and known.level == features.highest_level() + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"_loras": [], "width": "wide"},
        {"_loras": [], "num_steps": None},
        {"_loras": [], "frame_rate": float("nan")},
        {"_a field": 1},
        {"_loras": [], "conditioning": [{**ITEM, "kind": 5}]},
        {"conditioning": [{**ITEM, "kind": "\x1b[2J"}]},
        {"protocol": "two"},
        {"predicted_peak": float("nan")},
    ],
)
def test_what_is_wrong_in_what_this_version_knows_is_damaged(record, changes):
    with pytest.raises(UnreadableJob, match="damaged") as raised:
        parse_job(record(**changes))
    assert not isinstance(raised.value, NewerVersion)


@pytest.mark.parametrize("changes", [{"_loras": [], "priority": 12}, {"protocol": 3, "request": "elsewhere"}])
def test_of_a_newer_job_with_other_limits_nothing_is_guessed(record, changes):
    with pytest.raises(NewerVersion) as raised:
        parse_job(record(**changes))
    assert raised.value.job is None


def test_a_record_of_another_job_is_damaged_however_new_it_is(record):
    with pytest.raises(UnreadableJob, match="belongs to another job"):
        parse_job(record(_loras=[]), "another")


def test_a_state_with_unknown_words_is_newer():
    assert parse_snapshot(b'{"status": "running", "of_tomorrow": 1}').status == "running"
    with pytest.raises(NewerState, match="upgrade the older side"):
        parse_snapshot(b'{"status": "frozen"}')
    with pytest.raises(UnreadableJob, match="damaged") as raised:
        parse_snapshot(Snapshot(seq=3).model_dump_json().replace('"seq":3', '"seq":"three"'))
    assert not isinstance(raised.value, NewerVersion)


def test_levels_are_never_used_twice_and_never_taken_for_a_memory_class():
    numbers = [feature.level for feature in FEATURES if feature.level]
    assert numbers == list(range(1, len(numbers) + 1)), "a new feature's level is one more than the last one's"
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert max(MEMORY_CLASSES) < LEVEL_STEP


LEVELS = {
    0: (
        1,
        "queued running done failed cancelled waiting loading the model encoding the prompt denoising decoding"
        " writing the MP4 uploading ended",
    ),
}
"""The protocol version and the words of states, by the level from which they are: a line is added, and none changed."""


def test_a_new_protocol_version_or_word_of_a_state_has_a_level_of_its_own():
    """Else older workers, which put it one level above their own, and this version's would hand it around for ever."""
    assert LEVELS[max(LEVELS)] == (PROTOCOL_VERSION, " ".join([*Status, *Stage])), "add a row to FEATURES, and one here"
    assert max(LEVELS) <= highest_level()


def test_a_row_may_concern_all_jobs(make_job, monkeypatch):
    monkeypatch.setattr(features, "FEATURES", (*FEATURES, Feature("protocol-2", 1, ("protocol",))))
    job = make_job()
    assert job.queue == "pocket.1+1" and parse_job(job.model_dump_json(), job.id) == job


def test_a_row_decides_where_a_job_waits_who_reads_it_and_what_is_written(make_job, monkeypatch):
    """The field is one that there is, in place of one of tomorrow."""
    rows = (
        Feature("old", 0),
        Feature("blur", 1, ("request.conditioning.*.stop",)),
        Feature("slow", 2, ("time_limit",)),
    )
    monkeypatch.setattr(features, "FEATURES", rows)
    plain, slow = make_job(), make_job(time_limit=5.0)
    item = ConditioningItem(kind="video", source=f"sha256:{PICTURE}", stop=2.0)
    blurred = plain.model_copy(update={"request": dataclasses.replace(plain.request, conditioning=(item,))})
    assert [job.queue for job in (plain, blurred, slow)] == ["pocket.1", "pocket.1+1", "pocket.1+2"]
    assert [line_entry(job).split(":")[0] for job in (plain, blurred, slow)] == ["1", "1001", "2001"]
    assert parse_entry(line_entry(slow)) == (1, 2, slow.id)
    about = {"id": "w", "name": "mac-1", "chip": "M1", "memory": 10**12, "budget_gb": 512, "variant": "pocket"}
    old, new = (
        WorkerInfo(**about, version="1", started_at=0, seen_at=0, features=words) for words in ("", "old blur slow")
    )
    assert old.serves(plain) and not old.serves(blurred) and new.serves(blurred)
    why = why_not_taken(blurred, NO_RELATIONS, [old], embedded=False)
    assert "no live worker can read the job: it needs blur, and mac-1 has an older one" in why
    assert why_not_taken(blurred, NO_RELATIONS, [old, new], embedded=False) == ""


def test_a_newer_job_is_shown_as_far_as_it_is_known_and_is_not_sent_again(
    redis_client, names, client_ledger, make_job, record
):
    job = make_job()
    client_ledger.submit(job)
    item = {**ITEM, "mask": f"sha256:{FILE}"}
    redis_client.hset(names.job(job.id), "spec", record(id=job.id, conditioning=[item], _loras=[f"sha256:{FILE}"]))
    farm = Farm.over(redis_client, SecretStr("redis://nowhere"), names, None)
    (view,) = farm.jobs()
    assert view.job.inputs == {PICTURE, FILE}, "whatever it is given is kept"
    assert status_word(view) == "newer" and "upgrade" in describe_job(view)["newer"]
    about = {"id": "w", "name": "mac-1", "chip": "M1", "memory": 10**12, "budget_gb": 512, "variant": "pocket"}
    old = WorkerInfo(**about, version="1", started_at=0, seen_at=0, features=features.features_of_this_version())
    new = old.model_copy(update={"features": f"{old.features} loras"})
    assert "it was submitted by a newer ltx-farm" in why_not_taken(view.job, NO_RELATIONS, [old], embedded=False)
    assert why_not_taken(view.job, NO_RELATIONS, [old, new], embedded=False) == ""
    assert old.model_copy(update={"protocol": PROTOCOL_VERSION + 1}).reads(view.job), "it need not name a feature"
    client_ledger.cancel(job.id)
    with pytest.raises(UsageError, match="cannot be retried by this version"):
        farm.retry(job.id)
    redis_client.hset(names.job(job.id), "spec", record(id=job.id, protocol=2, request=None))
    assert farm.jobs() == []
    with pytest.raises(FarmError, match="protocol version 2"):
        farm.view(job.id)


def test_a_job_of_which_nothing_is_known_can_be_cancelled(tmp_path, monkeypatch, make_job, record):
    stored = StoredFarm(tmp_path).installed(monkeypatch)
    job = make_job(id="one-3fa85f64a1b2")
    ClientLedger(stored.client, stored.names).submit(job)
    stored.client.hset(stored.names.job(job.id), "spec", record(id=job.id, protocol=2, request=None))
    assert stored.ltx("pause", "3fa85f64a1b2").exit_code != 0, "what needs more of a job refuses it"
    done = stored.ltx("cancel", "3fa85f64a1b2")
    assert (done.exit_code, done.stderr) == (0, f"job {job.id} is cancelled\n")
    assert stored.client.exists(stored.names.cancel(job.id))
    assert "there is no job nobody" in stored.ltx("cancel", "nobody").stderr


def test_a_retry_by_a_newer_version_is_not_retried_by_this_one(redis_client, names, client_ledger, make_job, record):
    """It failed too, and a copy of what is known of it would be another video."""
    job = make_job()
    again = derived_id("retry", job.id)
    for each in (job, make_job(id=again)):
        client_ledger.submit(each)
        client_ledger.cancel(each.id)
    redis_client.hset(names.job(again), "spec", record(id=again, _loras=[f"sha256:{FILE}"]))
    farm = Farm.over(redis_client, SecretStr("redis://nowhere"), names, None)
    with pytest.raises(UsageError, match=f"job {again} cannot be retried by this version"):
        farm.retry(job.id)
    assert len(farm.jobs()) == 2


def test_a_worker_of_a_newer_version_is_listed_by_what_is_known_of_it(redis_client, names, caplog):
    about = {"name": "mac-1", "chip": "M9", "memory": 10**12, "budget_gb": 512, "variant": "pocket", "version": "9"}
    strange = {**about, "started_at": 0, "seen_at": 0, "gpu_gb": "two of them", "holograms": "yes"}
    for worker_id, changes in {
        "newer": {"features": "clip-parts holograms"},
        "later": {"protocol": 2},
        "damaged": {},
        "alien": {"protocol": 2, "memory": "much"},
    }.items():
        redis_client.zadd(names.workers(), {worker_id: 1})
        redis_client.hset(names.worker(worker_id), mapping={**strange, "id": worker_id, **changes})
    found = live_workers(redis_client, names)
    assert [(worker.id, worker.gpu_gb) for worker in found] == [("later", None), ("newer", None)]
    assert "worker alien is left out" in caplog.text and "upgrade this side" in caplog.text
    assert "worker damaged is left out" in caplog.text
