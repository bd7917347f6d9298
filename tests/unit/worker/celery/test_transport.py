"""What a worker takes from a queue, and what it sets aside."""

import base64
import json
import pickle

import pytest

from ltx_client.protocol.jobs import new_job_id
from ltx_client.protocol.names import queue_name
from ltx_worker.celery.transport import MAX_ITEM_BYTES, why_refused
from tests.integration.faults.bad_messages import BAD, envelope

JOB = new_job_id()


def message(change=None, **fields):
    item = envelope("pocket.1", JOB, json.dumps([[JOB], {}, {"callbacks": None}]).encode()) | fields
    if change:
        change(item)
    return json.dumps(item).encode()


def body(*parts):
    return {"body": base64.b64encode(json.dumps(parts).encode()).decode()}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_what_is_no_message_is_refused(make):
    assert why_refused(make("pocket.1", JOB))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (b"", "JSON"),
        (b"[]", "should be an object"),
        (b"{" * 30_000, "JSON"),
        (b" " * (MAX_ITEM_BYTES + 1), "has 65537 bytes, and a message at most 65536"),
        (message(lambda m: m["headers"].update(task="shutdown")), "headers.task"),
        (message(lambda m: m["headers"].update(id="../etc")), "headers.id"),
        (message(lambda m: m["headers"].update(id=new_job_id())), "not the job's"),
        (message(lambda m: m["headers"].update(compression="bzip2")), "headers.compression"),
        (message(lambda m: m["headers"].update(eta="tomorrow")), "headers.eta"),
        (message(lambda m: m["headers"].update(timelimit=True)), "headers.timelimit"),  # a worker would die of it
        (message(lambda m: m["headers"].update(timelimit=[1, 2])), "headers.timelimit"),
        (message(lambda m: m["headers"].update(retries=3)), "headers.retries"),
        (message(lambda m: m["headers"].update(callbacks=[{"task": "render"}])), "callbacks is for Celery alone"),
        (message(lambda m: m["headers"].update(update="x")), "update is for Celery alone"),
        (message(lambda m: m["properties"].update(priority="first")), "properties.priority"),
        (message(lambda m: m["properties"]["delivery_info"].update(routing_key="jobs")), "routing_key"),
        (message(lambda m: m["properties"]["delivery_info"].update(exchange="a")), "exchange"),
        (message(lambda m: m["properties"].pop("delivery_info")), "properties.delivery_info"),
        (message(lambda m: m["properties"].update(delivery_tag=7)), "properties.delivery_tag"),
        (message(body=base64.b64encode(pickle.dumps([[JOB], {}, {}])).decode()), "JSON"),
        (message(**{"content-type": "application/x-python-serialize"}), "content-type"),
        (message(**body([JOB, 2], {}, {})), "0"),
        (message(**body([], {}, {})), "0"),
        (message(**body([JOB], {"colour": "red"}, {})), "colour"),
        (message(**body([JOB], {"colour": None}, {})), "named arguments"),
        (message(**body([JOB], {}, {"callbacks": [{"task": "render"}]})), "callbacks"),
        (message(**body([JOB], {})), "2"),
    ],
)
def test_a_message_that_is_not_ours_is_refused_and_says_why(item, words):
    reason = why_refused(item)
    assert reason
    assert words in reason
    assert len(reason) < 300


def test_what_the_tests_call_a_message_would_be_taken():
    assert why_refused(message()) is None
    assert why_refused(message(lambda m: m["headers"].update(redelivered=True))) is None
    key = queue_name("pocket", 12, level=3)
    assert why_refused(message(lambda m: m["properties"]["delivery_info"].update(routing_key=key))) is None
