"""Read jobs from Redis, many in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ltx_client.farm.jobs.views import JobView
from ltx_client.protocol.jobs import Job, NewerVersion, UnreadableJob, parse_job, parse_priority, parse_relations
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import parse_snapshot
from ltx_client.shared.broker.exchange import Command, Exchange, ask_all
from ltx_client.shared.unexpected_data import is_wrong_type, tell_once

__all__ = ["read_views"]

MOMENT_DIGITS = 14
"""Digits of a time in milliseconds since 1970, at most: up to the year 5138."""


def read_views(names: Names, ids: Sequence[str], *, strict: bool = False) -> Exchange[list[JobView]]:
    """Return the jobs with these ids that exist, in the same order.

    Of a job of a newer version there is what this version knows (`JobView.newer`). Jobs that are damaged, or of which
    too little is known, are left out, and named once in the log.

    Args:
        names: The farm's key names.
        ids: The jobs' ids.
        strict: Whether to raise for such a job instead.

    Raises:
        UnreadableJob: A job cannot be read, and `strict` is given.
    """
    requests = []
    for job_id in ids:
        requests += [
            Command("hmget", [names.job(job_id), "spec", "submitted_at", "links", "priority", "held"]),
            Command("hget", [names.state(job_id), "snapshot"]),
            Command("exists", [names.cancel(job_id)]),
            Command("exists", [names.lease(job_id)]),
        ]
    replies = iter((yield from ask_all(requests, raise_on_error=False)))
    views = []
    for job_id, record, snapshot, cancel, lease in zip(ids, replies, replies, replies, replies, strict=True):
        try:
            _check_readable(record, snapshot, cancel, lease)
            if record[0] is None:  # it expired
                continue
            views.append(_view(job_id, record, snapshot, cancel_asked=bool(cancel), leased=bool(lease)))
        except UnreadableJob as error:
            if strict:
                raise
            tell_once(f"job {job_id} is not shown: {error}")
    return views


def _check_readable(*replies: Any) -> None:
    """Raise UnreadableJob if a key of the job is damaged, and raise any other error reply as it is."""
    for reply in replies:
        if is_wrong_type(reply):
            raise UnreadableJob("a key of its record or its state holds a value of the wrong type")
        if isinstance(reply, Exception):
            raise reply


def _view(job_id: str, record: list[Any], snapshot: Any, *, cancel_asked: bool, leased: bool) -> JobView:
    spec, submitted_at, relations, priority, paused = record
    job = _known(spec, job_id)
    wished = parse_priority(priority)
    return JobView(
        job=job if wished is None else job.model_copy(update={"priority": wished}),
        submitted_at=_moment(submitted_at),
        snapshot=parse_snapshot(snapshot),
        cancel_asked=cancel_asked,
        leased=leased,
        relations=parse_relations(relations),
        paused=bool(paused),
    )


def _known(spec: bytes, job_id: str) -> Job:
    """Return a job, or what this version knows of a newer one. Raise UnreadableJob if that is not enough."""
    try:
        return parse_job(spec, job_id)
    except NewerVersion as error:
        if error.job is None:
            raise
        return error.job


def _moment(milliseconds: bytes | None) -> float:
    """Return a time in seconds since 1970 from the milliseconds in a job's record."""
    if not milliseconds or not milliseconds.isdigit() or len(milliseconds) > MOMENT_DIGITS:
        raise UnreadableJob("its record is damaged (submitted_at: it is not a time in milliseconds)")
    return int(milliseconds) / 1000
