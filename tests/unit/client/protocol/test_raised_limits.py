"""Test that a stored job with values beyond this version's limits is a newer one, and never a damaged one."""

import dataclasses
import json

import pytest
from pydantic import SecretStr

from ltx_client.farm.describe import describe_job
from ltx_client.farm.farm import Farm
from ltx_client.protocol.jobs import NewerVersion, UnreadableJob, parse_job
from ltx_client.terminal.output import status_word
from ltx_models.errors import InvalidRequest
from ltx_models.families.ltxv import LTXV
from ltx_models.families.variants import VARIANTS, find_variant
from ltx_models.request import GenerationRequest
from tests.fuzz.screens import show_job

CLIP = {"kind": "video", "source": "sha256:" + "a" * 64, "frame": 3}


@pytest.fixture
def record(make_job):
    """Return a job's record with other values, and with other values of its request."""

    def make(request, **changes):
        data = {**make_job().model_dump(mode="json"), **changes}
        return json.dumps({**data, "request": {**data["request"], **request}})

    return make


@pytest.mark.parametrize("variant", ["pocket", "of-tomorrow"])
@pytest.mark.parametrize(
    "request_values",
    [
        {"num_frames": 521},
        {"num_frames": 24},
        {"width": 4096},
        {"width": 20, "height": 20},
        {"num_steps": 1001},
        {"frame_rate": 240},
        {"guidance_scale": 31},
        {"prompt": "x" * 4001},
        {"conditioning": [CLIP]},
        {"conditioning": [{**CLIP, "frame": 0}] * 17},
        {"stg_blocks": [1000]},
        {"num_frames": 521, "loras": []},
    ],
)
def test_values_beyond_the_limits_are_newer_and_are_known(record, variant, request_values):
    with pytest.raises(NewerVersion, match="upgrade the older side") as raised:
        parse_job(record(request_values, variant=variant))
    known = json.loads(raised.value.job.model_dump_json())
    for name in request_values.keys() - {"loras", "conditioning"}:
        assert known["request"][name] == request_values[name]
    assert known["variant"] == variant


@pytest.mark.parametrize("changes", [{"priority": 12}, {"checkpoint_every": 2000}, {"predicted_peak": 10**15}])
def test_of_values_that_this_version_cannot_show_nothing_is_known(record, changes):
    with pytest.raises(NewerVersion) as raised:
        parse_job(record({"width": 4096}, **changes))
    assert raised.value.job is None
    with pytest.raises(NewerVersion):
        parse_job(record({}, **changes))


@pytest.mark.parametrize("variant", ["pocket", "of-tomorrow"])
@pytest.mark.parametrize(
    ("request_values", "changes"),
    [
        ({"width": -64}, {}),
        ({"num_frames": 0}, {}),
        ({"num_frames": -1, "width": 4096}, {}),
        ({"width": "4096"}, {}),
        ({"width": 4096.5}, {}),
        ({"width": 10**30}, {}),
        ({"width": 4096, "num_frames": None}, {}),
        ({"width": 4096, "frame_rate": float("nan")}, {}),
        ({"width": 4096, "prompt": ""}, {}),
        ({"prompt": "a\x1b[2J"}, {}),
        ({"decode_timestep": 2}, {}),
        ({"seed": -1}, {}),
        ({"timesteps": [0.5, 0.9], "num_steps": 2}, {}),
        ({"width": 4096}, {"priority": -1}),
        ({"width": 4096}, {"submitter": None}),
        ({"num_frames": None}, {"predicted_peak": 10**15}),
    ],
)
def test_values_that_no_version_takes_are_damaged(record, variant, request_values, changes):
    with pytest.raises(UnreadableJob, match="its record is damaged") as raised:
        parse_job(record(request_values, variant=variant, **changes))
    assert not isinstance(raised.value, NewerVersion)


def test_a_value_that_no_version_takes_is_told_in_the_words_of_this_one(record):
    with pytest.raises(UnreadableJob, match=r"width -64 is out of range; 32 to \d{3,4} in steps of 32"):
        parse_job(record({"width": -64}))


def test_a_record_of_another_job_is_damaged_whatever_its_values(record):
    with pytest.raises(UnreadableJob, match="belongs to another job"):
        parse_job(record({"width": 4096}), "another")


def test_what_another_family_takes_is_beyond_the_limits_of_a_variant_that_does_not(record, monkeypatch):
    limits = dataclasses.replace(LTXV.limits, size_stride=20)
    row = dataclasses.replace(
        find_variant("pocket"), name="toy", family=dataclasses.replace(LTXV, name="toy", limits=limits)
    )
    monkeypatch.setitem(VARIANTS.data, "toy", row)
    sides = {"width": 20, "height": 20}
    assert parse_job(record(sides, variant="toy")).request.width == 20
    with pytest.raises(NewerVersion, match="width 20 is") as raised:
        parse_job(record(sides))
    assert raised.value.job.request.width == 20


def test_a_client_makes_no_such_request(record):
    with pytest.raises(NewerVersion):
        parse_job(record({"num_frames": 521}))
    with pytest.raises(InvalidRequest, match="frames 521 is out of range"):
        GenerationRequest(prompt="a red ball", num_frames=521)


def test_such_a_job_is_shown_as_far_as_it_is_known(redis_client, names, client_ledger, make_job, record):
    job = make_job()
    client_ledger.submit(job)
    spec = record({"width": 20, "height": 20, "num_frames": 10_000}, id=job.id, variant="of-tomorrow")
    redis_client.hset(names.job(job.id), "spec", spec)
    (view,) = Farm.over(redis_client, SecretStr("redis://nowhere"), names, None).jobs()
    assert status_word(view) == "newer"
    assert "beyond the limits of this one" in describe_job(view)["newer"]
    show_job(view)
