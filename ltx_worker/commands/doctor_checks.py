"""The checks of `ltx-worker doctor`: this machine, its model and its MLX, and the broker and the storage."""

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
from ltx_models.families.family import named
from ltx_models.families.variants import VARIANTS, Variant
from ltx_models.files.hub import verify
from ltx_models.files.model_files import find_files
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
    """Return all checks, in the order of the report.

    Args:
        settings: the worker's settings.
        variant: the variant that it serves.
        quick: whether to skip verifying the model's files.
    """
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
    """The broker cannot be used; the message says why."""


class Machine:
    """The checks of this machine.

    Args:
        settings: the worker's settings.
        variant: the variant that it serves.
        quick: whether to skip verifying the model's files.
    """

    def __init__(self, settings: WorkerSettings, variant: Variant, quick: bool) -> None:
        self._settings = settings
        self._variant = variant
        self._quick = quick
        self._device = ""
        self._network_error: int | None = None

    def device(self) -> Iterator[Finding]:
        """Check whether MLX computes, and on which device."""
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
            output = [line for line in done.stderr.splitlines() if line.strip()]
            why = output[-1].strip() if output else "it wrote nothing"
            text = f"MLX does not work (exit code {done.returncode}): {why}"
            yield Finding("device", Level.FAILURE, text, "pip install --force-reinstall 'ltx-farm[worker]'")
            return
        found = json.loads(done.stdout.splitlines()[-1])
        self._device = found["device"]
        name = f" {found['name']}" if found["name"] else ""
        text = f"MLX {found['mlx']} on the {found['device'].upper()}{name}"
        if found["working_set"]:
            text += f", which should use at most {found['working_set'] / GB:.0f} GB of memory"
        if found["device"] == "cpu" and sys.platform == "darwin":
            yield Finding("device", Level.FAILURE, text, "use a Mac with Apple silicon, and a Python for arm64")
        elif found["device"] == "cpu" and self._variant.needs_gpu:
            yield Finding(
                "device", Level.WARNING, f"{text}: a video takes hours", "pip install 'ltx-farm[cuda]' on a GPU"
            )
        else:
            yield Finding("device", Level.OK, text)

    def memory(self) -> Iterator[Finding]:
        """Check which variants fit into the memory, and whether this worker's does."""
        total, budget = machine_memory() / GB, self._settings.worker_memory_gb
        fitting = [row.name for row in VARIANTS.values() if row.ram_gb <= budget]
        text = f"renders may use {budget:.3g} of {total:.3g} GB; variants that fit: {', '.join(fitting) or 'none'}"
        gpu = self._settings.gpu_gb
        wanted = -(-self._variant.ram_gb * GB // 2**20)
        if self._variant.name in fitting and gpu is not None and not self._fits_any(gpu):
            text += f"; the GPU may use {gpu:.2g} GB, so no render with {self._variant.name} begins here"
            fix = f"sudo sysctl iogpu.wired_limit_mb=0, which is the system's own limit, or {wanted}"
            yield Finding("memory", Level.FAILURE, text, fix)
        elif self._variant.name in fitting and gpu is not None and gpu < self._variant.ram_gb:
            text += (
                f"; the GPU may use {gpu:.1f} GB, so the largest renders with {self._variant.name} go to other workers"
            )
            yield Finding("memory", Level.WARNING, text, f"sudo sysctl iogpu.wired_limit_mb={wanted}, after each start")
        elif self._variant.name in fitting:
            yield Finding("memory", Level.OK, text)
        else:
            largest = max((VARIANTS[name] for name in fitting), key=lambda row: row.ram_gb, default=None)
            fix = (
                "unset LTX_WORKER_MEMORY_GB"
                if "LTX_WORKER_MEMORY_GB" in os.environ
                else "use a machine with more memory"
            )
            fix = f"ltx-worker start --variant {largest.name}" if largest else fix
            text += f"; {self._variant.name} needs {self._variant.ram_gb} GB"
            yield Finding("memory", Level.FAILURE, text, fix)

    def _fits_any(self, gpu: float) -> bool:
        limit = int(gpu * GB)
        return smallest_peak(self._variant, limit) <= limit

    def weights(self) -> Iterator[Finding]:
        """Check whether the variant's files are on this machine, and equal the hub's."""
        name = self._variant.name
        command = f"ltx models download {name}"
        download = as_the_service(command, command)
        try:
            files = find_files(self._variant)
            for part in self._variant.family.parts:
                if part.check:
                    named(part.check)(files[part.name])
        except CheckpointError as error:
            yield Finding("weights", Level.FAILURE, as_the_service(str(error), command), download)
            return
        damaged = [] if self._quick else [(path, problem) for path, problem in verify(self._variant) if problem]
        for path, problem in damaged:
            yield Finding("weights", Level.FAILURE, f"{path}: {problem}", f"rm '{path}'; {download}")
        if not damaged:
            how = "are here, and were not verified" if self._quick else "are here and intact"
            yield Finding(
                "weights", Level.OK, f"the files of {name} {how} ({files[self._variant.family.checkpoint.name]})"
            )

    def ffmpeg(self) -> Iterator[Finding]:
        """Check the ffmpeg that writes MP4s."""
        yield examine_ffmpeg()

    def home(self) -> Iterator[Finding]:
        """Check whether a worker can use its folder, and whether there is space for videos that wait for delivery."""
        folder = self._settings.home
        try:
            make_home(folder)
        except UnusableHome as error:
            found = problems_in(folder) or [Problem(str(error), "set LTX_HOME to a folder that this user can write")]
            for problem in found:
                yield Finding("home", Level.FAILURE, problem.text, problem.fix)
            return
        except OSError as error:
            fix = "set LTX_HOME to a folder that this user can write, on a disk of this machine"
            yield Finding("home", Level.FAILURE, f"{folder} cannot be made or locked: {error.strerror}", fix)
            return
        yield space("home", folder)

    def spool(self) -> Iterator[Finding]:
        """Check the spool folder, where finished videos wait to be delivered."""
        folder = self._settings.home / SPOOL
        if problem_of(folder) or problem_of(self._settings.home):  # which `home` reports
            return
        try:
            kept, strange = spooled(folder)
        except OSError as error:
            yield Finding("spool", Level.FAILURE, f"{folder} cannot be read: {error.strerror}", f"chmod 700 '{folder}'")
            return
        if kept:
            yield Finding("spool", Level.OK, f"{len(kept)} finished videos wait to be delivered")
        for path in strange:
            yield Finding("spool", Level.WARNING, f"{path} was not put there by a worker", f"rm -r '{path}'")

    def blas(self) -> Iterator[Finding]:
        """Check whether MLX uses a fast BLAS on a CPU."""
        if self._device != "cpu":
            return
        if library := blas_environment().get("LD_PRELOAD"):
            yield Finding("BLAS", Level.OK, os.path.realpath(library.partition(":")[0]))
        else:
            text = "MLX uses the reference BLAS: a render on the CPU takes many times longer than with OpenBLAS"
            yield Finding("BLAS", Level.WARNING, text, "sudo apt-get install libopenblas0-pthread")

    def power(self) -> Iterator[Finding]:
        """Check for settings of a Mac that end or slow down renders."""
        yield from power_findings(output_of("pmset", "-g"), output_of("pmset", "-g", "batt"))

    def share(self) -> Iterator[Finding]:
        """Check whether macOS lets this user use a storage that is a folder."""
        url = self._settings.storage_url
        if url is None or not url.startswith("/"):
            return
        failed = probe_folder(Path(url))
        if isinstance(failed, TimeoutError):  # so would every other call; `storage` reports it
            return
        user = pwd.getpwuid(os.geteuid()).pw_name
        yield from share_findings(Path(url), output_of("mount"), user, os.path.realpath(sys.executable), failed)

    def no_broker(self) -> Iterator[Finding]:
        """Report that no broker is set."""
        fix = "set LTX_BROKER_URL, for a service in its worker.env, which `ltx-worker install --dry-run` names"
        yield Finding("broker", Level.FAILURE, "none is set, so this worker belongs to no farm", fix)

    def network(self) -> Iterator[Finding]:
        """Check whether macOS keeps this program from the broker."""
        yield from local_network(self._network_error)

    def connect(self) -> redis.Redis:
        """Return a client of the broker, once the broker has answered.

        Raises:
            Exception: the broker cannot be used; the message says why.
        """
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
