"""The scripts by which those who use a thing of the farm, and `ltx gc`, which removes it, keep from a race."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import StrEnum

import redis

from ltx_client.farm.ledger.scripts import WANTED_TTL
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED
from ltx_client.shared.lua.lua_script import RegisteredScript, load_script

__all__ = ["REMOVAL_TTL", "Permission", "RemovalLedger"]

REMOVAL_TTL = 120
"""Seconds after which a removal that nobody has said to be over is taken to be so, since whoever removed was killed."""
READING_TTL = 3600
"""Seconds that a download keeps its job, where it was killed and could not say that it ended."""

_HERE = "ltx_client.farm.ledger"
_WANT_INPUTS = load_script(_HERE, "want_inputs")
_MAY_REMOVE_INPUT = load_script(_HERE, "may_remove_input")
_INPUT_REMOVED = load_script(_HERE, "input_removed")
_FORGET = load_script(_HERE, "forget")
_BEGIN_READING = load_script(_HERE, "begin_reading")


class Permission(StrEnum):
    """Whether something may be removed now."""

    YES = "yes"
    NO = "no"
    """It is wanted, or used, or somebody else removes it."""
    TOO_LATE = "too late"
    """It was read too long ago which jobs need what."""


class RemovalLedger:
    """Methods raise redis.RedisError."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._want = RegisteredScript(client, _WANT_INPUTS)
        self._may_remove = RegisteredScript(client, _MAY_REMOVE_INPUT)
        self._removed = RegisteredScript(client, _INPUT_REMOVED)
        self._forget = RegisteredScript(client, _FORGET)
        self._begin_reading = RegisteredScript(client, _BEGIN_READING)

    def want(self, inputs: Sequence[str]) -> bool:
        """Keeps what has this content for an hour, whether or not it is there yet. False, and nothing was written,
        while one of them is being removed.
        """
        return bool(self._want(inputs=[self._names.input(sha256) for sha256 in inputs], ttl=WANTED_TTL))

    def may_remove_input(self, sha256: str, token: str, read_at: float) -> Permission:
        """Whether it may be removed, which nobody may want until `input_removed`, or for REMOVAL_TTL seconds.

        token: of this removal.  read_at: when it was begun to read which jobs need what, by the broker's clock.
        """
        reply = self._may_remove(
            input=self._names.input(sha256), read_at=int(read_at), holds_for=WANTED_TTL, token=token, ttl=REMOVAL_TTL
        )
        return Permission(reply.decode())

    def input_removed(self, sha256: str, token: str) -> None:
        """Says that the removal of this token is over."""
        self._removed(input=self._names.input(sha256), token=token)

    def forget(self, job_id: str, submitted_at: float) -> bool:
        """Removes the client's keys of a job that has ended, if it is still the one that was submitted then, and nobody
        downloads its video. Returns whether it is gone.
        """
        names = self._names
        reply = self._forget(
            job=names.job(job_id),
            state=names.state(job_id),
            cancel=names.cancel(job_id),
            readers=names.readers(job_id),
            submitted_at=round(submitted_at * 1000),
            ended=sorted(ENDED),
        )
        return bool(reply == b"yes")

    def is_known(self, job_id: str) -> bool:
        """Whether there is a job of this id."""
        return bool(self._client.exists(self._names.job(job_id)))

    def begin_reading(self, job_id: str) -> str | None:
        """Keeps a job until `end_reading`, to which what it returns is given; None where there is no such job."""
        token, names = secrets.token_hex(8), self._names
        known = self._begin_reading(job=names.job(job_id), readers=names.readers(job_id), token=token, ttl=READING_TTL)
        return token if known else None

    def end_reading(self, job_id: str, token: str) -> None:
        """Lets go of the job."""
        self._client.hdel(self._names.readers(job_id), token)
