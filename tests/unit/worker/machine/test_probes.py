"""Test what probes find wrong with a machine, and that they find nothing wrong with this one."""

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from types import SimpleNamespace

import psutil
import pytest

from ltx_models.errors import FaultKind, MachineFault
from ltx_worker.machine.probes import Probes
from tests.storages import made

SMALL = 1_000_000
BROKEN_FFMPEG = {
    "missing": None,
    "no program": b"not a program",
    "ends at once": b"#!/bin/sh\nexit 1\n",
    "dies": b"#!/bin/sh\nkill -SEGV $$\n",
    "writes nothing": b"#!/bin/sh\ncat > /dev/null\n",
}


class Engine:
    fault = None

    def why_it_cannot_load(self, should_stop):
        return self.fault


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def probes(folder, tmp_path):
    (tmp_path / "storage").mkdir()
    return Probes([folder], made(tmp_path / "storage"), Engine(), lambda: False)


@pytest.fixture
def full_disk(tmp_path):
    """Return a small disk of its own, and a file that fills it."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "ltx-test", str(mount)]
    with contextlib.suppress(OSError):
        if os.getuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            filler = mount / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            yield mount, filler
            subprocess.run(["umount", "-l", str(mount)], check=True)
            return
    pytest.skip("no file system can be mounted here")


def assert_found(fault, kind, words=""):
    assert isinstance(fault, MachineFault), "nothing was found"
    assert (fault.kind, fault.confirmed) == (kind, True), fault
    assert words in str(fault)


@pytest.mark.parametrize("kind", FaultKind)
def test_nothing_is_wrong_here(probes, folder, kind):
    assert probes.quick(kind) is None
    assert list(folder.iterdir()) == [], "a probe has left something"


@pytest.mark.lane("machine")
def test_a_full_disk_until_it_has_room(full_disk, tmp_path, probes):
    mount, filler = full_disk
    probes = Probes([mount], made(tmp_path), Engine(), lambda: False)
    assert_found(probes.quick(), FaultKind.SPACE, "No space left on device")
    filler.unlink()
    assert probes.quick() is None


@pytest.mark.lane("machine")
def test_a_full_folder_for_temporary_files(full_disk, folder, tmp_path, monkeypatch):
    mount, filler = full_disk
    monkeypatch.setattr(tempfile, "tempdir", str(mount))
    probes = Probes([folder], made(tmp_path), Engine(), lambda: False)
    assert_found(probes.quick(), FaultKind.SPACE)
    filler.unlink()
    assert probes.quick() is None


@pytest.mark.lane("machine")
def test_a_worker_starts_where_no_folder_takes_temporary_files(full_disk, folder, tmp_path, monkeypatch):
    """The only disk of a machine may be full."""
    mount, filler = full_disk
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(mount)])
    monkeypatch.setenv("TMPDIR", str(mount))
    probes = Probes([folder], made(tmp_path), Engine(), lambda: False)
    assert_found(probes.disks(), FaultKind.SPACE)
    filler.unlink()
    assert probes.disks() is None


def test_a_missing_folder_for_temporary_files(folder, tmp_path, monkeypatch):
    """That is so even if this process would use another one by now: the engine has begun with the first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    probes = Probes([folder], made(tmp_path), Engine(), lambda: False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert_found(probes.quick(), FaultKind.FOLDER, "No such file")
    (tmp_path / "none").mkdir()
    assert probes.quick() is None


def test_a_folder_that_is_a_file(probes, folder):
    folder.write_text("no folder")
    assert isinstance(probes.quick(), MachineFault)
    folder.unlink()
    assert probes.quick() is None


def test_too_many_open_files(probes):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[0]), limits[1]))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(4):
            os.close(taken.pop())
        fault = probes.quick()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for handle in taken:
            os.close(handle)
    assert_found(fault, FaultKind.FILES, "Too many open files")
    assert probes.quick() is None


@pytest.mark.parametrize("how", BROKEN_FFMPEG)
def test_an_ffmpeg_that_is_missing_or_broken(probes, tmp_path, monkeypatch, how):
    program = tmp_path / "ffmpeg"
    if BROKEN_FFMPEG[how] is not None:
        program.write_bytes(BROKEN_FFMPEG[how])
        program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    fault = probes.quick()
    assert isinstance(fault, MachineFault)
    assert fault.kind in (FaultKind.FFMPEG, FaultKind.FOLDER)
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    assert probes.quick() is None


def test_too_little_memory(probes, monkeypatch):
    memory = psutil.virtual_memory()
    assert_found(probes.quick(FaultKind.MEMORY, needs=memory.total * 2), FaultKind.MEMORY, "are available")
    assert probes.quick(FaultKind.SPACE, needs=memory.total * 2) is None
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10**12, available=10**9))
    assert_found(probes.quick(FaultKind.MEMORY), FaultKind.MEMORY)


def test_a_storage_that_is_out_of_reach(probes, tmp_path):
    shutil.rmtree(tmp_path / "storage")
    (tmp_path / "storage").write_text("no folder")
    assert_found(probes.quick(FaultKind.STORAGE), FaultKind.STORAGE, "cannot write to the storage")
    assert probes.quick(FaultKind.SPACE) is None


@pytest.mark.parametrize("kind", [FaultKind.MODEL, FaultKind.SOFTWARE])
def test_a_model_that_cannot_be_loaded(probes, kind):
    assert probes.thorough(kind) is None
    probes._engine.fault = MachineFault("the checkpoint is damaged", FaultKind.MODEL, confirmed=True)
    assert_found(probes.thorough(kind), FaultKind.MODEL)
