"""Fuzz the items of a Celery queue as a worker's transport, Celery itself and the reaper read them."""

import base64
import json

import pytest
from celery import Celery
from celery.worker.request import Request
from hypothesis import strategies as st
from kombu.transport.virtual import Channel, Message

from ltx_client.protocol.jobs import RENDER_TASK
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.celery_settings import celery_settings
from ltx_worker.celery.transport import why_refused
from ltx_worker.queue.fair_turns import job_of
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import ODD_VALUES, mutated_bytes, mutated_json, odd_bytes, odd_json
from tests.fuzz.test_jobs import ID, OTHER
from tests.integration.faults.bad_messages import BAD, envelope

BODY = [[ID], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
SPARSE = envelope("pocket.1", ID, json.dumps(BODY).encode())
FULL = {**SPARSE, "headers": {**SPARSE["headers"], "shadow": None, "eta": None, "expires": None, "group": None}}
FULL["headers"] |= {"group_index": None, "timelimit": [None, None], "parent_id": None, "ignore_result": None}
FULL["headers"] |= {"argsrepr": f"[{ID!r}]", "kwargsrepr": "{}", "origin": "gen1@here", "replaced_task_nesting": 0}
FULL["headers"] |= {"stamped_headers": None, "stamps": {}}
FULL["properties"] = {**FULL["properties"], "reply_to": OTHER, "priority": 5}
ITEMS = [SPARSE, FULL]
VALID = tuple(json.dumps(item).encode() for item in ITEMS)


@pytest.fixture(scope="module")
def celery_runs():
    """Let Celery decode an item and run its task, which records its arguments."""
    app = Celery("fuzz", set_as_current=False)
    app.conf.update({**celery_settings(Broker.parse("redis://nowhere"), Names()), "broker_transport": None})
    called = []

    @app.task(name=RENDER_TASK, acks_late=True, ignore_result=True)
    def render(job_id):
        called.append(job_id)

    channel = app.connection_for_write("memory://").default_channel
    assert isinstance(channel, Channel)

    def run(item):
        called.clear()
        message = Message(json.loads(item.decode()), channel=channel)
        message.accept = {"application/json"}
        request = Request(message, app=app, task=app.tasks[RENDER_TASK], hostname="here")
        time_limit, soft_time_limit = request.time_limits
        assert (time_limit, soft_time_limit, request.expires, request.eta) == (None, None, None, None)
        request.execute()
        return called

    return run


@pytest.fixture
def read_item(celery_runs):
    def read(item):
        job_id = job_of(item)
        assert job_id is None or isinstance(job_id, str)
        job_of(b"[" + item + b',"","pocket.1"]')  # as it lies among the delivered
        refusal = why_refused(item)
        if refusal is None:
            assert celery_runs(item) == [job_id], "Celery reads another job out of it"
        return refusal

    return read


@st.composite
def with_mutated_body(draw):
    """Draw valid envelopes with a body that is wrong."""
    body = draw(mutated_json([BODY], [value for value in ODD_VALUES if len(value) < 6000]))
    return json.dumps({**draw(st.sampled_from(ITEMS)), "body": base64.b64encode(body).decode()}).encode()


@st.composite
def with_odd_headers(draw):
    """Draw envelopes whose headers and properties have a meaning for Celery and kombu."""
    item = json.loads(json.dumps(draw(st.sampled_from(ITEMS))))
    names = st.sampled_from(
        [
            *("callbacks", "errbacks", "chain", "chord", "update", "headers", "args", "kwargs", "timelimit", "utc"),
            "retries",
            *("is_eager", "loglevel", "called_directly", "group", "stamps", "stamped_headers", "trace-id"),
            *("reply_to", "priority", "expiration", "body_encoding", "delivery_info", "delivery_mode", "__class__"),
        ]
    )
    values = st.sampled_from([None, 0, 1, -1, "x", [], {}, [1, 2], [{"task": RENDER_TASK}], {"x": "y"}, 1e300, True])
    for holder in (item["headers"], item["properties"]):
        holder.update(draw(st.dictionaries(names, values, max_size=2)))
    return json.dumps(item).encode()


MUTATED = mutated_json(ITEMS) | mutated_bytes(VALID) | with_mutated_body() | with_odd_headers()


def test_items(campaign, read_item):
    odd = odd_json() | odd_bytes() | st.sampled_from([make("pocket.1", ID) for make in BAD.values()])
    campaign(Kind("queue items", read_item, VALID, MUTATED, odd))
