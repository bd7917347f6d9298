"""Whose a file of an attempt is: decided by what this farm has granted; nobody else's is taken for an orphan."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import redis

from ltx_client.protocol.events import Result
from ltx_client.protocol.file_names import RESULT, TOKEN_SHOWN
from ltx_client.protocol.jobs import UnreadableJob
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, Status, parse_snapshot

__all__ = ["Ownership", "read_ownership"]

AT_ONCE = 1000
"""Jobs of one round trip."""


@dataclass(frozen=True)
class Ownership:
    """Of one job: its status, the part of the current attempt's token that names show, those of all attempts that were
    granted, and its result.
    """

    status: Status
    current: str
    granted: frozenset[str]
    result: Result | None

    @property
    def ended(self) -> bool:
        """Whether no attempt can follow."""
        return self.status in ENDED

    def disowns(self, name: str | None, token: str | None) -> bool:
        """Return whether a result's file is of an attempt of this farm that is over, and did not become the result.

        name: None for a part of a file, which is no result.  False wherever that is not certain: for a file without a
        token, or with one that was not granted here, as of another farm that uses the same storage, and for a result
        that cannot be read.
        """
        if token not in self.granted:
            return False
        if self.status is Status.DONE and name is not None:
            names = (self.result.video, self.result.sidecar) if self.result else ("", "")
            return all(map(RESULT.fullmatch, names)) and name not in names
        return self.ended or token != self.current


def read_ownership(client: redis.Redis, names: Names, ids: Iterable[str]) -> dict[str, Ownership]:
    """Return what is known of those of these jobs that this farm has, and has begun. Raise redis.RedisError."""
    found, left = dict[str, Ownership](), sorted(set(ids))
    for at in range(0, len(left), AT_ONCE):
        some = left[at : at + AT_ONCE]
        with client.pipeline(transaction=False) as pipeline:
            for job_id in some:
                pipeline.exists(names.job(job_id))
                pipeline.hmget(names.state(job_id), "status", "token", "tokens", "snapshot")
            replies = pipeline.execute(raise_on_error=False)
        for job_id, exists, state in zip(some, replies[::2], replies[1::2], strict=True):
            if isinstance(state, redis.ConnectionError | redis.TimeoutError):
                raise state
            if exists == 1 and isinstance(state, list) and (ownership := _parse(state)):
                found[job_id] = ownership
    return found


def _parse(state: list[bytes | None]) -> Ownership | None:
    """None for a job that was never claimed, or of which this cannot be read: its files are left alone."""
    status, token, tokens, snapshot = ((value or b"").decode(errors="replace") for value in state)
    try:
        result = parse_snapshot(snapshot).result if snapshot else None
        return Ownership(Status(status), token[:TOKEN_SHOWN], frozenset(re.findall(r"[0-9a-f]{12}", tokens)), result)
    except (UnreadableJob, ValueError):
        return None
