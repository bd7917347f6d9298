"""Test what may be in place of a worker's files and folders: start and doctor say what is wrong with which."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ltx_client.shared import own_files
from ltx_client.shared.doctor.checks import Level, run_checks
from ltx_models.errors import FaultKind
from ltx_models.families.variants import find_variant
from ltx_worker.cli import main
from ltx_worker.commands import start
from ltx_worker.commands.doctor_checks import Machine
from ltx_worker.machine import home
from ltx_worker.machine.home import UnusableHome, make_home, problems_in
from ltx_worker.machine.probes import Probes
from ltx_worker.settings import WorkerSettings
from tests.storages import made

FILES = ("worker.lock", "worker.pid", "machine-id", "worker.run", "link-key", "hashes.json", "hashes.tmp")
FOLDERS = ("work", "spool")
ITSELF = "."
WRONG = {
    "a folder": os.mkdir,
    "a file": lambda path: path.write_text("something"),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("elsewhere")), path.symlink_to("elsewhere")),
    "a named pipe": os.mkfifo,
    "nothing that this user may read": lambda path: (
        (path.mkdir() if path.name in FOLDERS else path.touch()) or path.chmod(0)
    ),
}
CASES = [
    (name, how)
    for name in (ITSELF, *FILES, *FOLDERS)
    for how in WRONG
    if how != ("a file" if name in FILES else "a folder")
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("LTX_BROKER_URL", "LTX_MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "home"
    monkeypatch.setenv("LTX_HOME", str(path))
    monkeypatch.setenv("LTX_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("LTX_STORAGE_URL", str(made(tmp_path / "storage").local_folder))
    return path


@pytest.fixture(params=CASES, ids=" ".join)
def broken(request, folder, monkeypatch):
    """Return the path of what is wrong in a home, in which everything else is right."""
    name, how = request.param
    if how.startswith("nothing that") and os.getuid() == 0:
        monkeypatch.setattr(own_files.os, "access", lambda path, _: path.stat().st_mode & 0o700 != 0)
    if name != ITSELF:
        folder.mkdir()
        for right in {*FILES, *FOLDERS} - {name}:
            (folder / right).mkdir() if right in FOLDERS else (folder / right).touch()
    path = folder if name == ITSELF else folder / name
    WRONG[how](path)
    yield path
    if path.exists():
        path.chmod(0o700)


def test_nothing_is_wrong_with_a_home_that_is_new_or_whole(folder):
    make_home(folder)
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    for name in FILES:
        (folder / name).touch()
    (folder / "on-another-disk").mkdir()
    (folder / "spool").symlink_to("on-another-disk")
    make_home(folder)
    assert problems_in(folder) == []


def test_a_start_ends_with_one_sentence(broken):
    done = CliRunner().invoke(main, ["start"])
    assert done.exit_code == os.EX_UNAVAILABLE, done.output
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("Error"))
    assert str(broken) in said
    assert ("there must be a folder" if broken.name in (*FOLDERS, "home") else "there must be a file") in said
    assert "Traceback" not in done.output


def test_the_doctors_check_of_the_home_fails(broken):
    machine = Machine(WorkerSettings(), find_variant("pocket"), quick=True)
    findings = list(run_checks([machine.home, machine.spool]))
    assert [(finding.about, finding.level) for finding in findings] == [("home", Level.FAILURE)]
    assert str(broken) in findings[0].text
    assert f"'{broken}'" in findings[0].fix


@pytest.mark.parametrize("command", ["status", "stop", "drain", "resume"])
def test_other_commands_end_with_a_sentence(broken, command):
    done = CliRunner().invoke(main, [command])
    assert done.exit_code in (1, 2, os.EX_UNAVAILABLE), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert done.output.strip()


def test_a_home_that_cannot_be_made(folder, monkeypatch):
    folder.write_text("a file")
    monkeypatch.setenv("LTX_HOME", str(folder / "inside" / "it"))
    with pytest.raises(UnusableHome, match="cannot be"):
        make_home(folder / "inside" / "it")
    done = CliRunner().invoke(main, ["start"])
    assert done.exit_code == os.EX_UNAVAILABLE
    assert str(folder) in done.stderr
    machine = Machine(WorkerSettings(), find_variant("pocket"), quick=True)
    ((finding),) = run_checks([machine.home])
    assert finding.level is Level.FAILURE and finding.fix


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("how", ["a file", "a dangling link", "a link to itself", "a named pipe"])
def test_a_probe_finds_it_too(folder, tmp_path, name, how):
    folder.mkdir()
    WRONG[how](folder / name)
    probes = Probes([folder, *(folder / name for name in FOLDERS)], made(tmp_path / "storage"), None, lambda: False)
    for probe in (probes.folders, probes.disks, probes.quick):
        found = probe()
        assert (found.kind, found.confirmed) == (FaultKind.FOLDER, True)
        assert f"{folder / name} " in str(found)
    (folder / name).unlink()
    assert probes.folders() is probes.disks() is None


def test_every_name_that_a_worker_uses_is_known(folder):
    assert set(home._KEPT) == {*FILES, *FOLDERS}


def test_a_pipe_in_the_place_of_the_process_id_is_not_waited_for(folder):
    """Such a pipe was made after the start."""
    folder.mkdir()
    os.mkfifo(folder / "worker.pid")
    program = "from ltx_worker.membership.instance_lock import *; import pathlib, sys\n"
    program += "with instance_lock(pathlib.Path(sys.argv[1])): pass"
    subprocess.run([sys.executable, "-c", program, str(folder)], timeout=120, check=True)


def test_without_a_place_to_be_made_in(folder, monkeypatch):
    """An error of another kind is reported too."""

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(start, "make_home", full)
    done = CliRunner().invoke(main, ["start"])
    assert done.exit_code == os.EX_UNAVAILABLE
    assert "No space left on device" in done.stderr


def test_a_worker_waits_for_a_models_folder_that_is_mounted_later(folder, monkeypatch):
    """At a machine's start its share may be mounted after the worker starts: launchd and systemd start it again."""
    monkeypatch.setenv("LTX_MODELS_DIR", str(folder.parent / "away"))
    monkeypatch.setenv("XPC_SERVICE_NAME", "farm.ltx.worker")
    monkeypatch.setattr("logging.root.handlers", [])
    refused = CliRunner().invoke(main, ["start", "-v", "distilled-fp8"])
    assert refused.exit_code == os.EX_UNAVAILABLE and f"{folder.parent / 'away'} does not exist" in refused.output
    monkeypatch.setenv("LTX_WORKER_MEMORY_GB", "12")
    monkeypatch.setenv("LTX_MODELS_DIR", str(folder.parent))
    monkeypatch.delenv("XPC_SERVICE_NAME")
    assert CliRunner().invoke(main, ["start", "-v", "distilled-fp8"]).exit_code == 2
