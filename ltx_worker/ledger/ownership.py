"""Decide which job and attempt own a file: only a file of an attempt that this farm granted can be an orphan."""

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
    """What decides which attempt owns a job's files.

    Attributes:
        status: the job's status.
        current: the part of the current attempt's token that file names show.
        granted: the same of all attempts that were granted.
        result: the job's result, or None.
    """

    status: Status
    current: str
    granted: frozenset[str]
    result: Result | None

    @property
    def ended(self) -> bool:
        """Return whether no attempt can follow."""
        return self.status in ENDED

    def disowns(self, name: str | None, token: str | None) -> bool:
        """Return whether a file is of an attempt of this farm that is over and did not become the result.

        It is False whenever that is uncertain: for a file without a token, for a token that was not granted here, such
        as another farm's on the same storage, and for a result that cannot be read.

        Args:
            name: the file's name; None for a part of a file, which is never a result.
            token: the token in the name, or None.
        """
        if token not in self.granted:
            return False
        if self.status is Status.DONE and name is not None:
            names = tuple(self.result.files.values()) if self.result else ("",)
            return all(map(RESULT.fullmatch, names)) and name not in names
        return self.ended or token != self.current


def read_ownership(client: redis.Redis, names: Names, ids: Iterable[str]) -> dict[str, Ownership]:
    """Return the ownership of those jobs that this farm knows and has begun, by id.

    Raises:
        redis.RedisError: the broker does not answer, or refuses.
    """
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
    """Return the ownership in a job's state; None if the job was never claimed, or its state cannot be read."""
    status, token, tokens, snapshot = ((value or b"").decode(errors="replace") for value in state)
    try:
        result = parse_snapshot(snapshot).result if snapshot else None
        return Ownership(Status(status), token[:TOKEN_SHOWN], frozenset(re.findall(r"[0-9a-f]{12}", tokens)), result)
    except (UnreadableJob, ValueError):
        return None
