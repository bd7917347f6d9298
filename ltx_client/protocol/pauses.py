"""Workers and queues that an operator has paused: the fields of the hash `paused`, each there until it is resumed.

A claim is refused by the script that would grant it, so that nothing is begun once the pause is written; and the worker
reads its own two fields with each heartbeat, and takes no messages while one is there.
"""

from __future__ import annotations

import contextlib
import shlex
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ltx_client.protocol.events import Moment
from ltx_client.protocol.validation import Cleaned

__all__ = ["Pause", "parse_pause", "queue_field", "why_held", "worker_field"]

WORKER, QUEUE = "worker:", "queue:"


class Pause(BaseModel):
    """of: "worker" or "queue".  id, name: the worker's; of a queue, both are its variant.  by: who asked, as USER@HOST.
    at: seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    of: Literal["worker", "queue"]
    id: str
    name: Cleaned
    by: Cleaned
    at: Moment

    @property
    def field(self) -> str:
        """Where it lies in the hash."""
        return f"{self.of}:{self.id}"

    @property
    def mend(self) -> str:
        """The command that ends it."""
        return f"ltx resume --{self.of} {shlex.quote(self.name)}"


def worker_field(worker_id: str) -> str:
    """The field of a worker's pause; by its id, which it keeps when it starts again."""
    return WORKER + worker_id


def queue_field(variant: str) -> str:
    """The field of the pause of all queues of a variant."""
    return QUEUE + variant


def parse_pause(field: str, value: bytes) -> Pause:
    """What lies in a field. Whatever it is, the pause holds: a claim looks only at whether the field is there."""
    with contextlib.suppress(ValidationError):
        pause = Pause.model_validate_json(value)
        if pause.field == field:
            return pause
    of, _, name = field.partition(":")
    return Pause(of="worker" if of == "worker" else "queue", id=name, name=name, by="somebody", at=0.0)


def why_held(pauses: list[Pause]) -> str:
    """Why a worker that these concern takes no jobs, in a sentence; nothing if there are none."""
    what = {"worker": "it", "queue": "its queue"}
    return "; ".join(f"{pause.by} has paused {what.get(pause.of, pause.of)}, until `{pause.mend}`" for pause in pauses)
