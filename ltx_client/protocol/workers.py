"""What a worker says of itself, renewed every few seconds: the fields of `worker:{id}`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ltx_client.protocol import PROTOCOL_VERSION

__all__ = ["WorkerInfo"]


class WorkerInfo(BaseModel):
    """A live worker. memory in bytes, budget in GB (10**9 bytes), times in seconds since 1970.

    state: "idle" or "rendering"; job: the id of the job in hand, or empty.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    chip: str
    memory: int
    budget_gb: float
    variant: str
    version: str
    protocol: int = PROTOCOL_VERSION
    started_at: float
    seen_at: float
    state: str = "idle"
    job: str = ""
