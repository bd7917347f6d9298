"""What a worker reads from the environment, beside where the farm is."""

from __future__ import annotations

import socket
import uuid

import psutil
from pydantic import Field

from ltx_client.protocol.settings import FarmSettings
from ltx_models.memory import GB, MEMORY_CLASSES

__all__ = ["WorkerSettings", "machine_id"]


class WorkerSettings(FarmSettings):
    """Read from LTX_WORKER_… besides the farm's own.

    name: what people see.  memory_gb: what renders may use, at most; three quarters of the machine by default.
    lease, renew_every, heartbeat_every, stop_grace: seconds.  save_every: seconds between two resume points, at least.
    reap_every: seconds between two looks after the queue.  deliver_for: seconds that a finished video is tried to be
    stored before the next job begins; after that it waits in a spool folder until it can be.
    stall_limit: seconds without progress, and time_limit: seconds in all, after which a render is ended.
    """

    worker_name: str = Field(default_factory=lambda: socket.gethostname().split(".")[0])
    worker_memory_gb: float = Field(default_factory=lambda: 0.75 * psutil.virtual_memory().total / GB, gt=0)
    worker_lease: float = Field(default=60.0, gt=0)
    worker_renew_every: float = Field(default=10.0, gt=0)
    worker_heartbeat_every: float = Field(default=5.0, gt=0)
    worker_save_every: float = Field(default=2.0, ge=0)
    worker_reap_every: float = Field(default=5.0, gt=0, le=5.0)
    worker_deliver_for: float = Field(default=20.0, ge=0)
    worker_stall_limit: float = Field(default=600.0, gt=0)
    worker_time_limit: float = Field(default=24 * 3600.0, gt=0)
    worker_stop_grace: float = Field(default=20.0, gt=0)

    @property
    def memory_classes(self) -> tuple[int, ...]:
        """The memory classes, in GB, that this machine serves."""
        return tuple(size for size in MEMORY_CLASSES if size <= self.worker_memory_gb)


def machine_id(settings: FarmSettings) -> str:
    """This machine's identity: drawn once and kept in LTX_HOME, since cloned machines share a hostname."""
    path = settings.home / "machine-id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex + "\n")
    return path.read_text().strip()
