"""Find what is wrong with this machine without a render: for example, whether its folders can be written.

A fault that a probe finds is certainly the machine's. One that it does not find may be over, or caused by a job.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import redis

from ltx_client.shared.storage.store import Storage, StorageError
from ltx_models.errors import FaultKind, MachineFault
from ltx_models.machine_faults import machine_fault
from ltx_models.self_test.video_trial import try_video
from ltx_worker.engine.supervisor import Engine
from ltx_worker.machine.duty_hours import seconds_since_input
from ltx_worker.machine.home import problem_of
from ltx_worker.machine.mac import why_display_is_on
from ltx_worker.machine.system_programs import output_of

__all__ = ["PROBE", "Probes"]

PROBE = ".probe-"
"""The prefix of the folders that a probe makes and removes."""
ROOM = 16 * 2**20
"""Bytes that must fit on a disk, or a quarter of a small disk."""
SMALL = 4096
FILES = 16
"""How many files a probe opens at once."""
SHORT_OF_MEMORY = 0.05
"""A fraction of the machine's memory: with less than that available, no render may begin."""
DEVICE_TIMEOUT = 120.0


class Probes:
    """The probes of one worker's machine.

    Args:
        folders: those that renders write to.
        storage: the farm's storage.
        engine: the worker's engine.
        should_stop: whether to stop a probe that takes long.
        check_storage: raises MachineFault if the storage can be written and still must not be used.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        storage: Storage,
        engine: Engine,
        should_stop: Callable[[], bool],
        check_storage: Callable[[], object] = lambda: None,
    ) -> None:
        self._folders = folders
        self._storage = storage
        self._engine = engine
        self._should_stop = should_stop
        self._check_is_common = check_storage
        self._temporary = _temporary()
        self._needs = 0

    def folders(self) -> MachineFault | None:
        """Return why an existing folder that renders write to cannot be used; fast, since nothing is written."""
        return _probe(self._check_folders)

    def disks(self) -> MachineFault | None:
        """Return why the folders cannot be written to."""
        return _probe(self._write)

    def quick(self, kind: FaultKind | None = None, needs: int = 0) -> MachineFault | None:
        """Return what is wrong, in about a second; None if nothing was found.

        Args:
            kind: the kind of the last fault, whose own probes are tried too.
            needs: bytes of memory that a render needs.
        """
        if found := _probe(self._files) or _probe(self._write) or _probe(_encode):
            return found
        self._needs = needs
        probe = {
            FaultKind.MEMORY: self._memory,
            FaultKind.STORAGE: self._check_storage,
            FaultKind.DISPLAY: _check_display,
        }.get(kind or FaultKind.SPACE)
        return _probe(probe) if probe else None

    def thorough(self, kind: FaultKind) -> MachineFault | None:
        """Return what is wrong, or None, as `quick` does; it may load the model."""
        if found := self.quick(kind, self._needs):
            return found
        if kind in (FaultKind.GPU, FaultKind.NUMBERS):
            return _probe(_compute)
        if kind in (FaultKind.MODEL, FaultKind.SOFTWARE, FaultKind.MEMORY, FaultKind.FILES):
            return self._engine.why_it_cannot_load(self._should_stop)
        return None

    def _files(self) -> None:
        handles: list[int] = []
        try:
            handles += [os.open(os.devnull, os.O_RDONLY) for _ in range(FILES)]
        finally:
            for handle in handles:
                os.close(handle)

    def _check_folders(self) -> None:
        for folder in self._folders:
            if problem := problem_of(folder):
                raise MachineFault(problem.text, FaultKind.FOLDER)

    def _write(self) -> None:
        """Write, read and rename a file in each folder, a large one on each disk."""
        self._check_folders()
        disks: set[int] = set()
        for folder in (*self._folders, self._temporary):
            if folder in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=PROBE, ignore_cleanup_errors=True) as probe:
                disk = folder.stat().st_dev
                size = SMALL if disk in disks else min(ROOM, shutil.disk_usage(folder).total // 4)
                disks.add(disk)
                _write_and_read(Path(probe), bytes(size))

    def _memory(self) -> None:
        memory = psutil.virtual_memory()
        least = max(self._needs, round(SHORT_OF_MEMORY * memory.total))
        if memory.available < least:
            raise MachineFault(
                f"{memory.available / 1e9:.1f} GB of its memory are available, and {least / 1e9:.1f} GB are needed",
                FaultKind.MEMORY,
            )

    def _check_storage(self) -> None:
        try:
            self._storage.check()
        except StorageError as error:
            raise MachineFault(str(error), FaultKind.STORAGE) from error
        with contextlib.suppress(redis.RedisError):  # no fault of this machine's
            self._check_is_common()


def _temporary() -> Path:
    """Return the folder that processes use for temporary files."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # no candidate can be written to, for example on a full disk: a probe finds that
        return Path(os.environ.get("TMPDIR", os.sep + "tmp"))


def _probe(check: Callable[[], None]) -> MachineFault | None:
    """Return the fault that a check raises."""
    try:
        check()
    except Exception as error:  # noqa: BLE001 — any failure of a probe is the machine's: nothing else is involved
        fault = machine_fault(error) or MachineFault(f"{type(error).__name__}: {error}")
        return MachineFault(str(fault), fault.kind, confirmed=True)
    return None


def _write_and_read(folder: Path, data: bytes) -> None:
    path = folder / "new"
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.replace(folder / "whole")
    if (folder / "whole").read_bytes() != data:
        raise MachineFault(f"a file in {folder.parent} was read back with other bytes", FaultKind.DISK)


def _encode() -> None:
    """Encode frames as an MP4 and decode them again."""
    try_video(PROBE)


def _check_display() -> None:
    """Raise MachineFault while a Mac's display is in use, since that needs the GPU."""
    if sys.platform == "darwin" and (
        why := why_display_is_on(
            output_of("pmset", "-g", "assertions"), output_of("pmset", "-g"), seconds_since_input()
        )
    ):
        fix = "let the display sleep: pmset displaysleepnow, or set LTX_WORKER_UNUSED_FOR=300"
        raise MachineFault(f"{why}, so macOS would end the work again; {fix}", FaultKind.DISPLAY)


def _compute() -> None:
    """Compute something with a known result by MLX, in a process of its own."""
    command = [sys.executable, "-m", "ltx_worker.engine.probe"]
    try:
        subprocess.run(command, capture_output=True, timeout=DEVICE_TIMEOUT, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise MachineFault(f"MLX does not compute: {error}", FaultKind.GPU) from error
