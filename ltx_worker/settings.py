"""The settings of a worker, read from the environment, besides those of the farm."""

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
from ltx_client.shared.memory_budget import usable_memory
from ltx_client.shared.private_files import drawn_once
from ltx_client.shared.setting_errors import Unit
from ltx_client.shared.settings import FarmSettings
from ltx_models.memory import GB, MEMORY_CLASSES, machine_memory
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

Seconds = Annotated[float, Field(gt=0, le=LONGEST), Unit("seconds")]
SecondsOrNone = Annotated[float, Field(ge=0, le=LONGEST), Unit("seconds")]
Bytes = Annotated[int, Field(ge=0, le=LARGEST), Unit("bytes")]
Port = Annotated[int, Field(ge=0, le=65535)]
Address = Annotated[str, Field(min_length=1, max_length=LONGEST_ADDRESS)]


class WorkerSettings(FarmSettings):
    """The variables LTX_WORKER_… of the environment, and the farm's settings.

    Each field's description is a row of the table in ltx_worker/README.md, which `python -m tests.papers` writes.
    """

    complete = "LTX_WORKER_"

    worker_name: Name = Field(
        default_factory=lambda: printable(socket.gethostname().split(".")[0]),
        min_length=1,
        max_length=LONGEST_NAME,
        description="The worker's name, as people see it; by default, this machine's.",
    )
    worker_memory_gb: Annotated[Gigabytes, Unit("GB")] = Field(
        default_factory=usable_memory,
        description="The memory that renders may use, in GB; by default, three quarters of the machine's. A worker "
        "with less than the smallest render of its variant needs does not start.",
    )
    worker_lease: Seconds = Field(
        default=60.0,
        description="Seconds after which a lease lapses and another worker may claim the job, unless it is renewed.",
    )
    worker_renew_every: Seconds = Field(
        default=10.0,
        description="Seconds between two renewals of a lease; less than `LTX_WORKER_LEASE`.",
    )
    worker_heartbeat_every: Seconds = Field(
        default=5.0,
        description="Seconds between two renewals of the worker's own record.",
    )
    worker_save_every: SecondsOrNone = Field(
        default=2.0,
        description="The least number of seconds between two resume points of a render.",
    )
    worker_resume_in_redis: Bytes = Field(
        default=8 * 10**6,
        description="Bytes up to which a resume point is stored in Redis; a larger one is put into the storage.",
    )
    worker_embeds_ttl: Annotated[int, Field(gt=0, le=LONGEST), Unit("seconds")] = Field(
        default=7 * 24 * 3600,
        description="Seconds without use after which a text's embedding is removed from the embeddings cache in Redis.",
    )
    worker_embeds_bytes: Bytes = Field(
        default=256 * 10**6,
        description="The most bytes of the farm's embeddings cache in Redis; 0: this worker does not use the cache.",
    )
    worker_reap_every: Annotated[float, Field(gt=0, le=5.0), Unit("seconds")] = Field(
        default=5.0,
        description="Seconds between two rounds of the reaper, which requeues jobs whose owners are gone.",
    )
    worker_sweep_every: Seconds = Field(
        default=600.0,
        description="Seconds between two searches of the storage for files that ended attempts have left.",
    )
    worker_deliver_for: SecondsOrNone = Field(
        default=20.0,
        description="Seconds for which storing a finished video is tried before the next job begins; after that,"
        " the video waits in the spool folder until it can be stored.",
    )
    worker_stall_limit: Seconds = Field(
        default=600.0,
        description="Seconds without progress after which a render is ended.",
    )
    worker_time_limit: Seconds = Field(
        default=24 * 3600.0,
        description="Seconds after which a render is ended, whatever its progress.",
    )
    worker_hand_on: SecondsOrNone = Field(
        default=60.0,
        description="Seconds for which a job whose attempt ended early here is left to other workers, if any.",
    )
    worker_idle_limit: Seconds = Field(
        default=30.0,
        description="Seconds that messages may wait in the queues of an idle worker before it reconnects; after as "
        "many again, it ends.",
    )
    worker_free_after: SecondsOrNone = Field(
        default=1800.0,
        description="Seconds without a render after which the models are unloaded; 0: never. When less than a tenth of "
        "the machine's memory is available, an idle worker unloads them at once.",
    )
    worker_stop_grace: Seconds = Field(
        default=10.0,
        description="Seconds that the engine has to stop a render before it is killed.",
    )
    worker_unready_after: Seconds = Field(
        default=30.0,
        description="Seconds for which a thread of the worker may fail, for a reason other than the broker, before the "
        "worker takes no more jobs.",
    )
    worker_end_after: Seconds = Field(
        default=300.0,
        description="Seconds of such a failure after which the worker ends with exit code 75, to be started again.",
    )
    worker_sign_for: Annotated[int, Field(ge=0, le=RESULT_TTL), Unit("seconds")] = Field(
        default=RESULT_TTL,
        description="Seconds for which a download link to a finished video is valid, at most 7 days; 0: no download "
        "links.",
    )
    worker_files_port: Port = Field(
        default=0,
        description="The port from which clients without access to the storage fetch finished videos, by download "
        "links; 0: none.",
    )
    worker_files_address: Address = Field(
        default="0.0.0.0",  # noqa: S104 - clients are elsewhere, and nothing is served unasked
        description="The interface on which that port is opened.",
    )
    worker_files_url: str = Field(
        default="",
        description="The URL by which clients connect to that port, such as `https://videos.studio/mac-1`; empty: "
        "`http://` and the machine's host name.",
    )
    worker_metrics_port: Port = Field(
        default=0,
        description="The port from which Prometheus scrapes the worker's metrics; 0: none.",
    )
    worker_metrics_address: Address = Field(
        default="127.0.0.1",
        description="The interface on which the metrics port is opened.",
    )
    worker_on_battery: bool = Field(
        default=True,
        description="Whether the worker takes new jobs while the machine is on battery.",
    )
    worker_unused_for: SecondsOrNone = Field(
        default=0.0,
        description="Seconds without input by a person before the worker takes new jobs (macOS only); 0: always.",
    )
    worker_hours: str = Field(
        default="",
        description="The duty hours, in which the worker takes new jobs, by the machine's clock, such as `19:00-07:00`;"
        " several with commas; empty: always.",
    )

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
            raise ValueError("must have a form such as http://mac-1.local:9106 or https://videos.studio/mac-1")
        return value

    @field_validator("worker_unused_for")
    @classmethod
    def _check_unused_for(cls, value: float) -> float:
        if value and sys.platform != "darwin":
            raise ValueError("must be 0 on this system: only macOS reports whether somebody uses the machine")
        return value

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        if self.worker_renew_every >= self.worker_lease:
            raise ValueError(
                f"LTX_WORKER_RENEW_EVERY {self.worker_renew_every:g} is invalid: a render would lose its job before it"
                f" renews its lease; use less than LTX_WORKER_LEASE, {self.worker_lease:g}"
            )
        return self

    @property
    def files_url(self) -> str:
        """Return the URL with which download links to this machine's videos begin."""
        return self.worker_files_url or f"http://{socket.gethostname()}:{self.worker_files_port}"

    @property
    def hours(self) -> tuple[Hours, ...]:
        """Return the duty hours; empty for always."""
        return parse_hours(self.worker_hours)

    @property
    def gpu_gb(self) -> float | None:
        """Return how much memory a Mac's GPU may use, in GB; None on other systems, where it may use all of it."""
        if sys.platform != "darwin":
            return None
        limit = output_of("sysctl", "-n", "iogpu.wired_limit_mb")
        return working_set(machine_memory(), limit) / GB

    @property
    def memory_classes(self) -> tuple[int, ...]:
        """Return the memory classes, in GB, that this machine serves."""
        return tuple(size for size in MEMORY_CLASSES if size <= self.worker_memory_gb)


def machine_id(settings: FarmSettings) -> str:
    """Return this machine's id, drawn once and kept in LTX_HOME, since cloned machines share a host name."""
    return drawn_once(settings.home / "machine-id", "[0-9a-zA-Z-]{8,64}", lambda: uuid.uuid4().hex)
