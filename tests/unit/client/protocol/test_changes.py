"""The messages of the farm's channel: on the wire, of newer versions, damaged, and what a follower makes of them."""

import contextlib
import json
from typing import get_args

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from ltx_client.farm.changes import feed
from ltx_client.farm.changes.feed import Feed, JobEvent, ReadAgain, Silence
from ltx_client.protocol import events
from ltx_client.protocol.changes import messages
from ltx_client.protocol.changes.messages import UNTOLD, Change, UnreadableChange, parse_change
from ltx_client.protocol.names import Names
from ltx_client.protocol.workers import WorkerInfo
from tests.replies import DEFECTS, OUTAGES

OF_WORKER = {"worker": "w", "name": "mac", "variant": "pocket", "state": "idle"}
ONE_OF_EACH = [
    messages.JobSubmitted(job="j", variant="pocket", priority=5, submitter="me@here", batch="b"),
    messages.JobStatus(job="j", status="running", seq=3, attempt=1, worker="w", worker_name="mac"),
    messages.JobCancelAsked(job="j"),
    messages.JobPaused(job="j"),
    messages.JobUnpaused(job="j"),
    messages.JobPriority(job="j", priority=0),
    messages.JobRemoved(job="j"),
    messages.BatchSubmitted(batch="b", name="shots.csv", submitter="me@here"),
    messages.BatchRemoved(batch="b"),
    messages.WorkerCame(**OF_WORKER),
    messages.WorkerChanged(**OF_WORKER, job="j", why_paused="it is night"),
    messages.WorkerLeft(worker="w", died=True),
    messages.Paused(of="queue", id="pocket", name="pocket", by="me@here"),
    messages.Unpaused(of="queue", id="pocket", name="pocket"),
]
LARGEST = 500
"""Bytes of a message."""


def test_there_is_one_example_of_every_message():
    assert {type(message) for message in ONE_OF_EACH} == set(get_args(Change))


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: message.type)
def test_a_message_survives_the_wire_and_is_small(message):
    text = message.model_dump_json()
    assert parse_change(text) == parse_change(text.encode()) == message
    assert len(text) < LARGEST


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: message.type)
def test_a_message_with_fields_of_a_newer_version_is_read(message):
    assert parse_change(json.dumps({**message.model_dump(), "mood": ["good"]})) == message


def test_a_status_of_a_newer_version_is_told_as_it_is():
    text = json.dumps({**ONE_OF_EACH[1].model_dump(), "status": "rehearsed"})
    assert parse_change(text).status == "rehearsed"


def test_a_message_of_a_newer_version_is_no_error():
    assert parse_change('{"type": "farm_sang", "song": []}') is None


@pytest.mark.parametrize("data", ["", "[]", "{", '{"type": "job_paused"}', '{"job": "j"}', b"\xff", "[" * 10**5])
def test_a_damaged_message_is_an_error(data):
    with pytest.raises(UnreadableChange, match="a message is damaged"):
        parse_change(data)


def test_names_of_fields_that_are_not_told_are_those_of_a_workers_record():
    assert WorkerInfo.model_fields.keys() >= UNTOLD


def a_feed(progress=True):
    return Feed(Names(), lambda: None, contextlib.nullcontext, progress=progress)


def message(kind, data=b"", channel=b"ltx:changes"):
    return {"type": kind, "pattern": None, "channel": channel, "data": data}


def test_one_is_told_to_read_again_when_the_last_subscription_is_made():
    assert a_feed(progress=False).read(message("subscribe", 1)) == ReadAgain()
    assert a_feed().read(message("subscribe", 1)) is None
    assert a_feed().read(message("psubscribe", 2)) == ReadAgain()
    assert a_feed().read(message("pong")) is None


def test_an_event_comes_with_its_job_and_number():
    event = events.Stepped(at=1.0, step=1, steps=2, seconds=1.0)
    read = a_feed().read(message("pmessage", b"12 " + event.model_dump_json().encode(), b"ltx:events:one"))
    assert read == JobEvent("one", 12, event)
    assert a_feed().read(message("pmessage", b'13 {"type": "of a newer version"}', b"ltx:events:one")).event is None


@given(st.sampled_from(["message", "pmessage"]), st.binary(max_size=50), st.binary(max_size=30))
def test_whatever_is_published_a_follower_goes_on(kind, data, channel):
    a_feed().read(message(kind, data, channel))


@given(st.sampled_from(ONE_OF_EACH), st.data())
def test_a_message_with_a_wrong_value_is_read_or_ignored(change, data):
    fields = change.model_dump()
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()))
    a_feed().read(message("message", json.dumps(fields).encode()))


def test_a_quiet_connection_is_asked_once_and_given_up_without_an_answer():
    silence = Silence(100.0)
    assert not silence.is_to_ask(100.0 + feed.QUIET)
    assert silence.is_to_ask(101.0 + feed.QUIET)
    assert not silence.is_to_ask(102.0 + feed.QUIET)
    with pytest.raises(redis.TimeoutError):
        silence.is_to_ask(101.0 + feed.QUIET + feed.ANSWER_WITHIN)
    silence.end(200.0)
    assert not silence.is_to_ask(200.0)
    assert silence.is_to_ask(201.0 + feed.QUIET)


def test_an_outage_is_ridden_out_for_a_while_and_a_lack_of_rights_is_not():
    assert Feed.may_return(redis.ConnectionError("gone"), feed.PATIENCE)
    assert not Feed.may_return(redis.ConnectionError("gone"), feed.PATIENCE + 1)
    assert Feed.may_return(redis.ResponseError(OUTAGES["OOM"]), 0)
    assert not Feed.may_return(redis.ResponseError(OUTAGES["NOPERM"]), 0)
    assert not Feed.may_return(redis.ResponseError(DEFECTS["WRONGTYPE"]), 0)
