"""Fuzz job records as clients and workers read them, written by a client or by anybody with its rights."""

import json

import fakeredis
import pytest
from hypothesis import strategies as st
from pydantic import SecretStr

from ltx_client.errors import FarmError
from ltx_client.farm.farm import Farm
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol.jobs import Job, Relations, UnreadableJob, parse_job, parse_relations
from ltx_client.protocol.names import Names
from ltx_models.families.variants import find_variant
from ltx_models.request import ConditioningItem, GenerationRequest
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import mutated_bytes, mutated_fields, mutated_json, odd_bytes, odd_json
from tests.fuzz.screens import show_job

ID, OTHER = "0199c0de-0000-7000-8000-00000000000a", "0199c0de-0000-7000-8000-00000000000b"
NAMES = Names()
REQUESTS = (
    GenerationRequest(prompt="a red ball", seed=1),
    GenerationRequest(
        prompt="ein roter Ball ⚽",
        negative_prompt="blurry",
        seed=2**40,
        num_steps=3,
        guidance_scale=(3.0, 1.0, 2.0),
        guidance_timesteps=(1.0, 0.9, 0.5),
        stg_blocks=((1,), (2, 3), ()),
        conditioning=(ConditioningItem(kind="image", source="sha256:" + "0" * 64, strength=0.5),),
    ),
)
JOBS = [
    Job(
        id=ID,
        variant="pocket",
        request=request.resolve(find_variant("pocket")),
        predicted_peak=10**8,
        submitter="me@here",
        time_limit=limit,
    )
    for request, limit in zip(REQUESTS, (None, 600.0), strict=True)
]
SPECS = [job.model_dump(mode="json") for job in JOBS]
VERSIONS = [{**SPECS[0], "protocol": number} for number in (0, 2, 10**9)]
LINKS = [
    Relations(batch=OTHER, item=3, not_on=("mac-1",)).model_dump(mode="json"),
    Relations(after_jobs=(OTHER,), after_batches=(ID,), retry_of=OTHER).model_dump(mode="json"),
]
RECORD = {
    "spec": JOBS[0].model_dump_json().encode(),
    "submitted_at": b"1760000000000",
    "links": json.dumps(LINKS[0]).encode(),
    "priority": b"3",
}


def read_spec(data):
    try:
        job = parse_job(data)
    except UnreadableJob as error:
        return str(error)
    assert parse_job(job.model_dump_json()) == job, "what was read cannot be written and read again"
    assert json.loads(json.dumps(job.model_dump(mode="json"), allow_nan=False))["id"] == job.id  # as in the sidecar
    assert job.queue
    return None


def read_links(data):
    relations = parse_relations(data)
    assert parse_relations(relations.model_dump_json(exclude_defaults=True)) == relations
    return None if relations != Relations() else "there are none"


@pytest.fixture(scope="module")
def read_record():
    """Read a record as `ltx show` and `ltx jobs` do, together with a valid one."""
    with fakeredis.FakeRedis() as client:
        farm = Farm.over(client, SecretStr("redis://nowhere"), NAMES, None)
        ClientLedger(client, NAMES).submit(JOBS[0].model_copy(update={"id": OTHER}))
        client.zadd(NAMES.jobs(), {ID: 1})

        def read(record):
            client.delete(NAMES.job(ID))
            if record:
                client.hset(NAMES.job(ID), mapping=record)
            views = farm.jobs()
            assert OTHER in {view.job.id for view in views}, "a good job was hidden by a bad one"
            try:
                view = farm.view(ID)
            except FarmError as error:
                return str(error)
            assert ID in {view.job.id for view in views}
            show_job(view)
            return None

        yield read


def test_specs(campaign):
    campaign(Kind("job records", read_spec, tuple(json.dumps(spec) for spec in SPECS), mutated_specs(), odd()))


def test_links(campaign):
    mutated = mutated_json(LINKS)
    campaign(Kind("links of jobs", read_links, tuple(json.dumps(relations) for relations in LINKS), mutated, odd()))


def test_hashes(campaign, read_record):
    numbers = st.sampled_from((b"", b"x", b"-1", b"1e3", b"9" * 5000, b"99", b"1.5", b"nan", b"\xff", b"0", b"9"))
    mutated = mutated_fields(
        RECORD,
        {"spec": mutated_specs(), "links": mutated_json(LINKS), "submitted_at": numbers, "priority": numbers},
    )
    odd_fields = st.dictionaries(st.sampled_from([*RECORD, "held"]), odd() | numbers, max_size=3)
    campaign(Kind("hashes of jobs", read_record, (RECORD,), mutated, odd_fields))


def mutated_specs():
    return mutated_json(SPECS) | mutated_json(VERSIONS) | mutated_bytes(tuple(json.dumps(s).encode() for s in SPECS))


def odd():
    return odd_json() | odd_bytes()


def test_a_job_that_no_memory_class_holds_is_refused():
    with pytest.raises(UnreadableJob, match="no queue serves it: this render would need"):
        parse_job(JOBS[0].model_copy(update={"predicted_peak": 10**15}).model_dump_json())
