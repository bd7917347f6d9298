"""What a worker reads from the environment, beside where the farm is."""

from __future__ import annotations

import socket
import sys
import uuid
from urllib.parse import urlsplit

import psutil
from pydantic import Field, field_validator

from ltx_client.protocol.fields import Name
from ltx_client.protocol.private_files import drawn_once
from ltx_client.protocol.settings import FarmSettings
from ltx_client.protocol.state import RESULT_TTL
from ltx_client.protocol.text import printable
from ltx_client.protocol.workers import Gigabytes
from ltx_models.memory import GB, MEMORY_CLASSES
from ltx_worker.mac import working_set
from ltx_worker.off_duty import Hours, parse_hours
from ltx_worker.system_programs import output_of

__all__ = ["WorkerSettings", "machine_id"]


class WorkerSettings(FarmSettings):
    """Read from LTX_WORKER_… besides the farm's own.

    name: what people see.  memory_gb: what renders may use, at most; three quarters of the machine by default.
    lease, renew_every, heartbeat_every, stop_grace: seconds.  save_every: seconds between two resume points, at least.
    resume_in_redis: bytes, up to which a resume point is kept in Redis; a larger one is put into the storage.
    embeds_ttl: seconds without use after which a text's embedding goes from Redis.  embeds_bytes: how much all of them
    may take there; 0 has this worker keep none, and read none.
    reap_every: seconds between two looks after the queue.
    sweep_every: seconds between two looks for what attempts that are over have left in the storage.
    deliver_for: seconds that a finished video is tried to be stored before the next job begins; after that it waits in
    a spool folder until it can be.
    hand_on: seconds that a job whose engine died here is left to other workers, if there are any.
    idle_limit: seconds that messages may lie in the worker's queues while it is idle, before it connects anew, and as
    many more before it ends.
    on_battery: whether to take new jobs while the machine is not plugged in.
    unused_for: seconds that nobody must have touched the machine for, before it takes new jobs (macOS only).
    hours: when to take new jobs, by the machine's clock, such as 19:00-07:00, or several such with commas.
    sign_for: seconds that a link to a finished video holds, by which clients without keys to an s3:// storage download
    it; 7 days at most, which is also how long a job's record is kept; 0 for none.
    files_port: where clients that cannot see the storage download finished videos, by links that hold for sign_for
    seconds, 0 for nowhere; files_address: on which interface; files_url: how clients reach that port, where it is not
    by this machine's own name, or through something that speaks https.
    metrics_port: where Prometheus may scrape the worker, 0 for nowhere; metrics_address: on which interface.
    free_after: seconds without a render after which the models are freed, to be loaded again for the next job; 0 keeps
    them. Where less than a tenth of the machine's memory is available, an idle worker frees them in any case.
    unready_after: seconds that a thread of the worker may fail for a reason that is not the broker's, before the worker
    takes no more jobs; end_after: seconds after which it ends, to be started again.
    stall_limit: seconds without progress, and time_limit: seconds in all, after which a render is ended.
    """

    worker_name: Name = Field(default_factory=lambda: printable(socket.gethostname().split(".")[0]))
    worker_memory_gb: Gigabytes = Field(default_factory=lambda: 0.75 * psutil.virtual_memory().total / GB)
    worker_lease: float = Field(default=60.0, gt=0)
    worker_renew_every: float = Field(default=10.0, gt=0)
    worker_heartbeat_every: float = Field(default=5.0, gt=0)
    worker_save_every: float = Field(default=2.0, ge=0)
    worker_resume_in_redis: int = Field(default=8 * 10**6, ge=0)
    worker_embeds_ttl: int = Field(default=7 * 24 * 3600, gt=0)
    worker_embeds_bytes: int = Field(default=256 * 10**6, ge=0)
    worker_reap_every: float = Field(default=5.0, gt=0, le=5.0)
    worker_sweep_every: float = Field(default=600.0, gt=0)
    worker_deliver_for: float = Field(default=20.0, ge=0)
    worker_stall_limit: float = Field(default=600.0, gt=0)
    worker_time_limit: float = Field(default=24 * 3600.0, gt=0)
    worker_hand_on: float = Field(default=60.0, ge=0)
    worker_idle_limit: float = Field(default=30.0, gt=0)
    worker_free_after: float = Field(default=1800.0, ge=0)
    worker_stop_grace: float = Field(default=10.0, gt=0)
    worker_unready_after: float = Field(default=30.0, gt=0)
    worker_end_after: float = Field(default=300.0, gt=0)
    worker_sign_for: int = Field(default=RESULT_TTL, ge=0, le=RESULT_TTL)
    worker_files_port: int = Field(default=0, ge=0, le=65535)
    worker_files_address: str = "0.0.0.0"  # noqa: S104 - clients are elsewhere, and nothing is served unless asked for
    worker_files_url: str = ""
    worker_metrics_port: int = Field(default=0, ge=0, le=65535)
    worker_metrics_address: str = "127.0.0.1"
    worker_on_battery: bool = True
    worker_unused_for: float = Field(default=0.0, ge=0)
    worker_hours: str = ""

    @field_validator("worker_hours")
    @classmethod
    def _check_hours(cls, value: str) -> str:
        parse_hours(value)
        return value

    @field_validator("worker_files_url")
    @classmethod
    def _check_files_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment):
            raise ValueError("must be as http://mac-1.local:9106 or https://videos.studio/mac-1")
        return value

    @field_validator("worker_unused_for")
    @classmethod
    def _check_unused_for(cls, value: float) -> float:
        if value and sys.platform != "darwin":
            raise ValueError("must be 0 here: whether somebody uses the machine can be told on macOS only")
        return value

    @property
    def files_url(self) -> str:
        """What links to this machine's videos begin with."""
        return self.worker_files_url or f"http://{socket.gethostname()}:{self.worker_files_port}"

    @property
    def hours(self) -> tuple[Hours, ...]:
        """When new jobs are taken; at any time if there are none."""
        return parse_hours(self.worker_hours)

    @property
    def gpu_gb(self) -> float | None:
        """What the GPU may use of the memory, in GB, where it may not use all that renders may: on a Mac."""
        if sys.platform != "darwin":
            return None
        limit = output_of("sysctl", "-n", "iogpu.wired_limit_mb")
        return working_set(psutil.virtual_memory().total, limit) / GB

    @property
    def memory_classes(self) -> tuple[int, ...]:
        """The memory classes, in GB, that this machine serves."""
        return tuple(size for size in MEMORY_CLASSES if size <= self.worker_memory_gb)


def machine_id(settings: FarmSettings) -> str:
    """Return this machine's identity: drawn once and kept in LTX_HOME, since cloned machines share a hostname."""
    return drawn_once(settings.home / "machine-id", "[0-9a-zA-Z-]{8,64}", lambda: uuid.uuid4().hex)
