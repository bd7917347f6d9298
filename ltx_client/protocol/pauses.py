"""Define an operator's pauses of workers and queues: the fields of the hash `paused`, each kept until it is resumed.

The script that would grant a claim refuses it, so that no job begins after the pause is written. A worker also reads
its own two fields with each heartbeat, and takes no messages while one of them exists.
"""

from __future__ import annotations

import contextlib
import shlex
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ltx_client.protocol.events import Moment
from ltx_client.protocol.validation import Cleaned

__all__ = ["Pause", "parse_pause", "queue_field", "why_paused", "worker_field"]

WORKER, QUEUE = "worker:", "queue:"


class Pause(BaseModel):
    """A pause of a worker or a queue.

    Attributes:
        of: "worker" or "queue".
        id: The worker's id; a queue's variant.
        name: The worker's name; a queue's variant.
        by: Who paused it, as USER@HOST.
        at: Seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    of: Literal["worker", "queue"]
    id: str
    name: Cleaned
    by: Cleaned
    at: Moment

    @property
    def field(self) -> str:
        """Return the pause's field in the hash."""
        return f"{self.of}:{self.id}"

    @property
    def resume_command(self) -> str:
        """Return the command that ends the pause."""
        return f"ltx resume --{self.of} {shlex.quote(self.name)}"


def worker_field(worker_id: str) -> str:
    """Return the field of a worker's pause; a worker keeps its id when it restarts."""
    return WORKER + worker_id


def queue_field(variant: str) -> str:
    """Return the field of the pause of all queues of a variant."""
    return QUEUE + variant


def parse_pause(field: str, value: bytes) -> Pause:
    """Return the pause in a field. Damaged content is a pause too: a claim only checks whether the field exists."""
    with contextlib.suppress(ValidationError):
        pause = Pause.model_validate_json(value)
        if pause.field == field:
            return pause
    of, _, name = field.partition(":")
    return Pause(of="worker" if of == "worker" else "queue", id=name, name=name, by="somebody", at=0.0)


def why_paused(pauses: list[Pause]) -> str:
    """Return why a worker that these pauses concern takes no jobs, as a sentence; empty for no pauses."""
    what = {"worker": "it", "queue": "its queue"}
    return "; ".join(
        f"{pause.by} has paused {what.get(pause.of, pause.of)}, until `{pause.resume_command}`" for pause in pauses
    )
