"""What `ltx-worker doctor` looks at: this machine, its model and its MLX, beside the broker and the storage."""

from __future__ import annotations

import json
import os
import platform
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import redis

from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.broker.client import Purpose, make_client
from ltx_client.shared.broker.connection_errors import why_unreachable
from ltx_client.shared.broker.first_contact import greet
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.doctor.broker_checks import BrokerChecks
from ltx_client.shared.doctor.checks import Check, Finding, Level
from ltx_client.shared.doctor.ffmpeg_check import examine_ffmpeg
from ltx_client.shared.doctor.folder_probe import probe_folder
from ltx_client.shared.doctor.storage_checks import StorageChecks, space
from ltx_client.shared.own_files import Problem
from ltx_models.blas import blas_environment
from ltx_models.errors import CheckpointError
from ltx_models.families.variants import VARIANTS, Variant
from ltx_models.files.hub import verify
from ltx_models.files.model_files import find_files
from ltx_models.files.safetensors_header import check_checkpoint
from ltx_models.memory import GB, machine_memory, smallest_peak
from ltx_worker.attempt.delivery import spooled
from ltx_worker.commands.service import as_the_service
from ltx_worker.machine.home import SPOOL, UnusableHome, make_home, problem_of, problems_in
from ltx_worker.machine.mac import local_network, no_apple_silicon, power_findings, share_findings
from ltx_worker.machine.system_programs import output_of
from ltx_worker.settings import WorkerSettings

__all__ = ["worker_checks"]

PROBE_TIMEOUT = 60.0
"""Seconds: the first time, MLX compiles kernels."""


def worker_checks(settings: WorkerSettings, variant: Variant, *, quick: bool = False) -> list[Check]:
    """All checks, in the order of the report. quick: do not read the model's files through."""
    here = Machine(settings, variant, quick)
    checks: list[Check] = [here.device, here.memory, here.weights, here.ffmpeg, here.home, here.spool]
    if sys.platform == "linux":
        checks.append(here.blas)
    if sys.platform == "darwin":
        checks += [here.power, here.share]
    broker: BrokerChecks | None = None
    if settings.broker_url is None:
        checks.append(here.no_broker)
    else:
        url = settings.broker_url
        broker = BrokerChecks(here.connect, url, settings.names)
        checks += broker.checks()
        if sys.platform == "darwin":
            checks.append(here.network)

    workers = broker.live_workers if broker is not None else list[WorkerInfo]
    return [*checks, *StorageChecks(settings.storage_url, workers=workers).checks()]


class _Unreachable(Exception):
    """The broker cannot be used: why, in a sentence."""


class Machine:
    """Checks of this machine."""

    def __init__(self, settings: WorkerSettings, variant: Variant, quick: bool) -> None:
        self._settings = settings
        self._variant = variant
        self._quick = quick
        self._device = ""
        self._network_error: int | None = None

    def device(self) -> Iterator[Finding]:
        """Whether MLX computes, and on what."""
        if found := no_apple_silicon(platform.machine(), output_of("sysctl", "-n", "sysctl.proc_translated")):
            yield found
            return
        command = [sys.executable, "-m", "ltx_worker.engine.probe"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            yield Finding("device", Level.FAILURE, f"MLX did not answer in {PROBE_TIMEOUT:g} s", "restart this machine")
            return
        if done.returncode:
            words = [line for line in done.stderr.splitlines() if line.strip()]
            text = (
                f"MLX does not work (exit code {done.returncode}): {words[-1].strip() if words else 'it said nothing'}"
            )
            yield Finding("device", Level.FAILURE, text, "pip install --force-reinstall 'ltx-farm[worker]'")
            return
        found = json.loads(done.stdout.splitlines()[-1])
        self._device = found["device"]
        name = f" {found['name']}" if found["name"] else ""
        text = f"MLX {found['mlx']} on the {found['device'].upper()}{name}"
        if found["working_set"]:
            text += f", of whose memory it should use {found['working_set'] / GB:.0f} GB at most"
        if found["device"] == "cpu" and sys.platform == "darwin":
            yield Finding("device", Level.FAILURE, text, "use a Mac with Apple silicon, and a Python for arm64")
        elif found["device"] == "cpu" and self._variant.needs_gpu:
            yield Finding(
                "device", Level.WARNING, f"{text}: hours for a video", "pip install 'ltx-farm[cuda]' on a GPU"
            )
        else:
            yield Finding("device", Level.OK, text)

    def memory(self) -> Iterator[Finding]:
        """Which variants fit, and whether the one that is meant does."""
        total, budget = machine_memory() / GB, self._settings.worker_memory_gb
        fitting = [row.name for row in VARIANTS.values() if row.ram_gb <= budget]
        text = f"renders may use {budget:.3g} of {total:.3g} GB; these fit: {', '.join(fitting) or 'none'}"
        gpu = self._settings.gpu_gb
        wanted = -(-self._variant.ram_gb * GB // 2**20)
        if self._variant.name in fitting and gpu is not None and not self._fits_any(gpu):
            text += f"; the GPU may use {gpu:.2g} GB, so that no render with {self._variant.name} begins here"
            mend = f"sudo sysctl iogpu.wired_limit_mb=0, which is the system's own limit, or {wanted}"
            yield Finding("memory", Level.FAILURE, text, mend)
        elif self._variant.name in fitting and gpu is not None and gpu < self._variant.ram_gb:
            text += f"; the GPU may use {gpu:.1f} GB, so the largest renders with {self._variant.name} go to others"
            yield Finding("memory", Level.WARNING, text, f"sudo sysctl iogpu.wired_limit_mb={wanted}, after each start")
        elif self._variant.name in fitting:
            yield Finding("memory", Level.OK, text)
        else:
            largest = max((VARIANTS[name] for name in fitting), key=lambda row: row.ram_gb, default=None)
            mend = (
                "unset LTX_WORKER_MEMORY_GB"
                if "LTX_WORKER_MEMORY_GB" in os.environ
                else "use a machine with more memory"
            )
            mend = f"ltx-worker start --variant {largest.name}" if largest else mend
            text += f"; {self._variant.name} needs {self._variant.ram_gb} GB"
            yield Finding("memory", Level.FAILURE, text, mend)

    def _fits_any(self, gpu: float) -> bool:
        limit = int(gpu * GB)
        return smallest_peak(self._variant, limit) <= limit

    def weights(self) -> Iterator[Finding]:
        """Whether the variant's files are here, and are what the hub has."""
        name = self._variant.name
        command = f"ltx models download {name}"
        download = as_the_service(command, command)
        try:
            files = find_files(self._variant)
            check_checkpoint(files.checkpoint)
        except CheckpointError as error:
            yield Finding("weights", Level.FAILURE, as_the_service(str(error), command), download)
            return
        damaged = [] if self._quick else [(path, problem) for path, problem in verify(self._variant) if problem]
        for path, problem in damaged:
            yield Finding("weights", Level.FAILURE, f"{path}: {problem}", f"rm '{path}'; {download}")
        if not damaged:
            how = "are here, not read through" if self._quick else "are here and intact"
            yield Finding("weights", Level.OK, f"the files of {name} {how} ({files.checkpoint})")

    def ffmpeg(self) -> Iterator[Finding]:
        """What MP4s are written with."""
        yield examine_ffmpeg()

    def home(self) -> Iterator[Finding]:
        """Whether a worker can use its folder, and whether there is room for videos that cannot be delivered yet."""
        folder = self._settings.home
        try:
            make_home(folder)
        except UnusableHome as error:
            found = problems_in(folder) or [Problem(str(error), "set LTX_HOME to a folder that this user can write")]
            for problem in found:
                yield Finding("home", Level.FAILURE, problem.text, problem.fix)
            return
        except OSError as error:
            mend = "set LTX_HOME to a folder that this user can write, on a disk of this machine"
            yield Finding("home", Level.FAILURE, f"{folder} cannot be made or locked: {error.strerror}", mend)
            return
        yield space("home", folder)

    def spool(self) -> Iterator[Finding]:
        """What lies where finished videos wait to be delivered."""
        folder = self._settings.home / SPOOL
        if problem_of(folder) or problem_of(self._settings.home):  # which `home` tells of
            return
        try:
            kept, strange = spooled(folder)
        except OSError as error:
            yield Finding("spool", Level.FAILURE, f"{folder} cannot be read: {error.strerror}", f"chmod 700 '{folder}'")
            return
        if kept:
            yield Finding("spool", Level.OK, f"{len(kept)} finished videos wait to be delivered")
        for path in strange:
            yield Finding("spool", Level.WARNING, f"{path} is nothing that a worker has put there", f"rm -r '{path}'")

    def blas(self) -> Iterator[Finding]:
        """Whether MLX computes on a CPU at the speed that it could."""
        if self._device != "cpu":
            return
        if library := blas_environment().get("LD_PRELOAD"):
            yield Finding("BLAS", Level.OK, os.path.realpath(library.partition(":")[0]))
        else:
            text = "MLX's own is the reference BLAS: a render on the CPU takes many times longer than it need"
            yield Finding("BLAS", Level.WARNING, text, "sudo apt-get install libopenblas0-pthread")

    def power(self) -> Iterator[Finding]:
        """What may end or slow down a Mac's render."""
        yield from power_findings(output_of("pmset", "-g"), output_of("pmset", "-g", "batt"))

    def share(self) -> Iterator[Finding]:
        """Whether macOS lets this user use the storage, where that is a folder."""
        url = self._settings.storage_url
        if url is None or not url.startswith("/"):
            return
        failed = probe_folder(Path(url))
        if isinstance(failed, TimeoutError):  # so would all that is asked of it; `storage` tells of it
            return
        user = pwd.getpwuid(os.geteuid()).pw_name
        yield from share_findings(Path(url), output_of("mount"), user, os.path.realpath(sys.executable), failed)

    def no_broker(self) -> Iterator[Finding]:
        """There is nothing to work for."""
        mend = "set LTX_BROKER_URL, for a service in its worker.env: `ltx-worker install --dry-run` says where that is"
        yield Finding("broker", Level.FAILURE, "none is set: this worker belongs to no farm", mend)

    def network(self) -> Iterator[Finding]:
        """Whether macOS keeps us from the broker."""
        yield from local_network(self._network_error)

    def connect(self) -> redis.Redis:
        """A client that answers. Raises an error whose text says why there is none."""
        assert self._settings.broker_url is not None
        broker = Broker.parse(self._settings.broker_url.get_secret_value())
        client = make_client(broker, Purpose.WORKER_DOCTOR)
        try:
            greet(client, broker)
        except redis.RedisError as error:
            client.close()
            self._network_error = getattr(error.__cause__ or error.__context__, "errno", None)
            raise _Unreachable(why_unreachable(error, broker.address)) from None
        return client
