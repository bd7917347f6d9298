"""What a worker reads from the environment, beside where the farm is."""

from __future__ import annotations

import socket
import sys
import uuid
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ltx_client.protocol.state import RESULT_TTL
from ltx_client.protocol.text import printable
from ltx_client.protocol.validation import Name
from ltx_client.protocol.workers import Gigabytes
from ltx_client.shared.memory_budget import machine_memory, usable_memory
from ltx_client.shared.private_files import drawn_once
from ltx_client.shared.settings import FarmSettings
from ltx_models.memory import GB, MEMORY_CLASSES
from ltx_worker.machine.duty_hours import Hours, parse_hours
from ltx_worker.machine.mac import working_set
from ltx_worker.machine.system_programs import output_of

__all__ = ["WorkerSettings", "machine_id"]

LONGEST = 10**9
"""Seconds: thirty years."""
LARGEST = 10**15
"""Bytes."""
LONGEST_NAME, LONGEST_ADDRESS = 100, 255
"""Characters."""

Seconds = Annotated[float, Field(gt=0, le=LONGEST, description="seconds")]
SecondsOrNone = Annotated[float, Field(ge=0, le=LONGEST, description="seconds")]
Bytes = Annotated[int, Field(ge=0, le=LARGEST, description="bytes")]
Port = Annotated[int, Field(ge=0, le=65535)]
Address = Annotated[str, Field(min_length=1, max_length=LONGEST_ADDRESS)]


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

    complete = "LTX_WORKER_"

    worker_name: Name = Field(
        default_factory=lambda: printable(socket.gethostname().split(".")[0]), min_length=1, max_length=LONGEST_NAME
    )
    worker_memory_gb: Gigabytes = Field(default_factory=usable_memory, description="GB")
    worker_lease: Seconds = 60.0
    worker_renew_every: Seconds = 10.0
    worker_heartbeat_every: Seconds = 5.0
    worker_save_every: SecondsOrNone = 2.0
    worker_resume_in_redis: Bytes = 8 * 10**6
    worker_embeds_ttl: Annotated[int, Field(gt=0, le=LONGEST, description="seconds")] = 7 * 24 * 3600
    worker_embeds_bytes: Bytes = 256 * 10**6
    worker_reap_every: Annotated[float, Field(gt=0, le=5.0, description="seconds")] = 5.0
    worker_sweep_every: Seconds = 600.0
    worker_deliver_for: SecondsOrNone = 20.0
    worker_stall_limit: Seconds = 600.0
    worker_time_limit: Seconds = 24 * 3600.0
    worker_hand_on: SecondsOrNone = 60.0
    worker_idle_limit: Seconds = 30.0
    worker_free_after: SecondsOrNone = 1800.0
    worker_stop_grace: Seconds = 10.0
    worker_unready_after: Seconds = 30.0
    worker_end_after: Seconds = 300.0
    worker_sign_for: Annotated[int, Field(ge=0, le=RESULT_TTL, description="seconds")] = RESULT_TTL
    worker_files_port: Port = 0
    worker_files_address: Address = "0.0.0.0"  # noqa: S104 - clients are elsewhere, and nothing is served unasked
    worker_files_url: str = ""
    worker_metrics_port: Port = 0
    worker_metrics_address: Address = "127.0.0.1"
    worker_on_battery: bool = True
    worker_unused_for: SecondsOrNone = 0.0
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

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        if self.worker_renew_every >= self.worker_lease:
            raise ValueError(
                f"LTX_WORKER_RENEW_EVERY is {self.worker_renew_every:g}; it must be less than LTX_WORKER_LEASE,"
                f" {self.worker_lease:g}, or a render loses its job before it has renewed its lease"
            )
        return self

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
        return working_set(machine_memory(), limit) / GB

    @property
    def memory_classes(self) -> tuple[int, ...]:
        """The memory classes, in GB, that this machine serves."""
        return tuple(size for size in MEMORY_CLASSES if size <= self.worker_memory_gb)


def machine_id(settings: FarmSettings) -> str:
    """Return this machine's identity: drawn once and kept in LTX_HOME, since cloned machines share a hostname."""
    return drawn_once(settings.home / "machine-id", "[0-9a-zA-Z-]{8,64}", lambda: uuid.uuid4().hex)
