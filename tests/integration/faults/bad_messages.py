"""Make what a broken or hostile client may put into a queue: items that are no messages, and useless messages."""

import base64
import json
import uuid

from ltx_client.protocol.jobs import RENDER_TASK

FIVE_MB = 5 * 10**6


def envelope(queue, job_id, body):
    """Return a queue item as kombu writes it, with any `body` (bytes)."""
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": RENDER_TASK, "id": job_id, "root_id": job_id, "retries": 0},
        "properties": {
            "correlation_id": job_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def _message(body):
    return lambda queue, job_id: json.dumps(envelope(queue, job_id, body(job_id))).encode()


def _arguments(*args, **kwargs):
    return json.dumps([args, kwargs, {}]).encode()


def _broken_base64(queue, job_id):
    return json.dumps({**envelope(queue, job_id, b""), "body": "%%%not base64%%%"}).encode()


UNDECODABLE = {
    "item that is not JSON": lambda queue, job_id: b"\x80\x04 not JSON",
    "item that is a JSON scalar": lambda queue, job_id: b"42",
    "item with invalid base64": _broken_base64,
    "item without an envelope": lambda queue, job_id: b'{"hello": "world"}',
}
"""Queue items that stock Celery dies of."""

USELESS = {
    "corrupt task body": _message(lambda job_id: b'[["cut o'),
    "unknown argument": _message(lambda job_id: _arguments(job_id, colour="red")),
    "body of 5 MB": _message(lambda job_id: _arguments("x" * FIVE_MB)),
    "wrong type": _message(lambda job_id: _arguments([job_id])),
}
"""Messages that can be decoded, as far as their task's body."""

BAD = UNDECODABLE | USELESS
