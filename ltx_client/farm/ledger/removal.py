"""The scripts by which those who use a thing of the farm, and `ltx gc`, which removes it, keep from a race."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import StrEnum

from ltx_client.farm.ledger.scripts import WANTED_TTL
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED
from ltx_client.shared.broker.exchange import Exchange, ask, run_script
from ltx_client.shared.lua.lua_script import load_script

__all__ = ["REMOVAL_TTL", "Permission", "RemovalExchanges"]

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


class RemovalExchanges:
    """Raise redis.RedisError."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def want(self, inputs: Sequence[str]) -> Exchange[bool]:
        """Keeps what has this content for an hour, whether or not it is there yet. False, and nothing was written,
        while one of them is being removed.
        """
        keys = [self._names.input(sha256) for sha256 in inputs]
        return bool((yield from run_script(_WANT_INPUTS, inputs=keys, ttl=WANTED_TTL)))

    def may_remove_input(self, sha256: str, token: str, read_at: float) -> Exchange[Permission]:
        """Whether it may be removed, which nobody may want until `input_removed`, or for REMOVAL_TTL seconds.

        token: of this removal.  read_at: when it was begun to read which jobs need what, by the broker's clock.
        """
        reply = yield from run_script(
            _MAY_REMOVE_INPUT,
            input=self._names.input(sha256),
            read_at=int(read_at),
            holds_for=WANTED_TTL,
            token=token,
            ttl=REMOVAL_TTL,
        )
        return Permission(reply.decode())

    def input_removed(self, sha256: str, token: str) -> Exchange[None]:
        """Says that the removal of this token is over."""
        yield from run_script(_INPUT_REMOVED, input=self._names.input(sha256), token=token)

    def forget(self, job_id: str, submitted_at: float) -> Exchange[bool]:
        """Removes the client's keys of a job that has ended, if it is still the one that was submitted then, and nobody
        downloads its video. Returns whether it is gone.
        """
        names = self._names
        reply = yield from run_script(
            _FORGET,
            job=names.job(job_id),
            state=names.state(job_id),
            cancel=names.cancel(job_id),
            readers=names.readers(job_id),
            submitted_at=round(submitted_at * 1000),
            ended=sorted(ENDED),
        )
        return bool(reply == b"yes")

    def is_known(self, job_id: str) -> Exchange[bool]:
        """Whether there is a job of this id."""
        return bool((yield from ask("exists", self._names.job(job_id))))

    def begin_reading(self, job_id: str) -> Exchange[str | None]:
        """Keeps a job until `end_reading`, to which what it returns is given; None where there is no such job."""
        token, names = secrets.token_hex(8), self._names
        known = yield from run_script(
            _BEGIN_READING, job=names.job(job_id), readers=names.readers(job_id), token=token, ttl=READING_TTL
        )
        return token if known else None

    def end_reading(self, job_id: str, token: str) -> Exchange[None]:
        """Lets go of the job."""
        yield from ask("hdel", self._names.readers(job_id), token)
