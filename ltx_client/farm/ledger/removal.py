"""Run the scripts that keep `ltx gc`, which removes files and jobs, from racing with whoever uses them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import StrEnum

from ltx_client.farm.ledger.scripts import WANTED_TTL
from ltx_client.protocol.changes import messages
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED
from ltx_client.shared.broker.exchange import Exchange, ask, run_script
from ltx_client.shared.lua.lua_script import load_script

__all__ = ["REMOVAL_TTL", "Permission", "RemovalExchanges"]

REMOVAL_TTL = 120
"""Seconds after which an unfinished removal is considered over, since its process was killed."""
READING_TTL = 3600
"""Seconds for which a killed download keeps its job."""

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
    """It is wanted or used, or somebody else removes it."""
    TOO_LATE = "too late"
    """The list of jobs and their inputs was read too long ago."""


class RemovalExchanges:
    """The scripts about removals. They raise redis.RedisError."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def want(self, inputs: Sequence[str]) -> Exchange[bool]:
        """Keep inputs for an hour, whether or not they are stored yet.

        Args:
            inputs: The SHA-256 of each input's content, in hex.

        Returns:
            False, with nothing written, while one of them is being removed.
        """
        keys = [self._names.input(sha256) for sha256 in inputs]
        return bool((yield from run_script(_WANT_INPUTS, inputs=keys, ttl=WANTED_TTL)))

    def may_remove_input(self, sha256: str, token: str, read_at: float) -> Exchange[Permission]:
        """Return whether an input may be removed; then nobody can want it for REMOVAL_TTL seconds.

        Args:
            sha256: The SHA-256 of its content, in hex.
            token: Identifies this removal.
            read_at: When the reading of all jobs and their inputs began, by the broker's clock.
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
        """End the removal with this token."""
        yield from run_script(_INPUT_REMOVED, input=self._names.input(sha256), token=token)

    def forget(self, job_id: str, submitted_at: float) -> Exchange[bool]:
        """Remove the client's keys of a job that has ended.

        The job is kept if its id was submitted again since, or somebody downloads its video.

        Returns:
            Whether the keys are gone.
        """
        names = self._names
        reply = yield from run_script(
            _FORGET,
            job=names.job(job_id),
            state=names.state(job_id),
            cancel=names.cancel(job_id),
            readers=names.readers(job_id),
            submitted_at=round(submitted_at * 1000),
            changes=names.changes(),
            removed=messages.JobRemoved.model_construct(job=job_id).model_dump_json(),
            ended=sorted(ENDED),
        )
        return bool(reply == b"yes")

    def is_known(self, job_id: str) -> Exchange[bool]:
        """Return whether a job with this id exists."""
        return bool((yield from ask("exists", self._names.job(job_id))))

    def begin_reading(self, job_id: str) -> Exchange[str | None]:
        """Keep a job until `end_reading`.

        Returns:
            The token to give to `end_reading`; None if the job does not exist.
        """
        token, names = secrets.token_hex(8), self._names
        known = yield from run_script(
            _BEGIN_READING, job=names.job(job_id), readers=names.readers(job_id), token=token, ttl=READING_TTL
        )
        return token if known else None

    def end_reading(self, job_id: str, token: str) -> Exchange[None]:
        """Stop keeping the job."""
        yield from ask("hdel", self._names.readers(job_id), token)
