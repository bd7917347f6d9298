"""Test what `ltx-worker doctor` finds on healthy machines and on others; each failure has a fix."""

import errno
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner
from pydantic import SecretStr

from ltx_client.protocol.names import Names
from ltx_client.shared.doctor import folder_probe
from ltx_client.shared.doctor.broker_checks import BrokerChecks
from ltx_client.shared.doctor.checks import Level, run_checks
from ltx_client.shared.doctor.storage_checks import StorageChecks
from ltx_client.shared.settings import FarmSettings
from ltx_client.terminal import client_checks
from ltx_models.families.variants import find_variant
from ltx_models.memory import GB
from ltx_worker.cli import main
from ltx_worker.commands import doctor, doctor_checks
from ltx_worker.commands.doctor_checks import Machine, worker_checks
from ltx_worker.machine.mac import local_network, power_findings
from ltx_worker.service.environment import ENVIRONMENT
from ltx_worker.settings import WorkerSettings
from tests.storages import made

PMSET = """System-wide power settings:
Currently in use:
 standby              1
 lowpowermode         {low}
 displaysleep         {display}
 sleep                1 (sleep prevented by caffeinate)
 autorestart          {restart}
"""
LORA = json.dumps({"a.lora_A.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
"""The header of a safetensors file."""
ON_MAINS = "Now drawing from 'AC Power'\n"
ON_BATTERY = "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t80%; discharging\n"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    for name in ("LTX_BROKER_URL", "LTX_STORAGE_URL", "LTX_MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))
    return WorkerSettings(worker_memory_gb=14)


def found(check):
    return [(finding.level, finding.text, finding.fix) for finding in run_checks([check])]


def test_what_is_well(settings, tmp_path):
    machine = Machine(settings, find_variant("pocket"), quick=False)
    for check in (machine.device, machine.memory, machine.weights, machine.ffmpeg, machine.home):
        ((level, text, fix),) = found(check)
        assert (level, fix) == (Level.OK, ""), text
    assert "variants that fit: pocket, pocket-distilled, distilled-fp8" in found(machine.memory)[0][1]
    assert "intact" in found(machine.weights)[0][1]


def test_an_ffmpeg_that_is_too_old_for_what_a_worker_does_with_it(settings, monkeypatch, tmp_path):
    """It has the encoder, and a worker with it would pause."""
    old = tmp_path / "ffmpeg"
    old.write_text('#!/bin/sh\ncase "$*" in *-encoders*) echo libx264;; *) echo odd option >&2; exit 1;; esac\n')
    old.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(old))
    for renders in (Machine(settings, find_variant("pocket"), quick=True), client_checks.Machine(FarmSettings())):
        ((level, text, fix),) = found(renders.ffmpeg)
        assert level is Level.FAILURE and f"{old} makes videos that cannot be read" in text and "a newer one" in fix
    submits = FarmSettings(broker_url=SecretStr("redis://farm:6379/0"))
    assert found(client_checks.Machine(submits).ffmpeg) == [(Level.OK, str(old), "")], "it only reads videos here"
    old.write_text("#!/bin/sh\nexit 1\n")
    assert "it does not run" in found(client_checks.Machine(submits).ffmpeg)[0][1]


def test_a_share_whose_server_is_away_holds_no_doctor(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_probe, "PROGRAM", "import time; time.sleep(600)")
    monkeypatch.setattr(folder_probe, "TIMEOUT", 0.3)
    monkeypatch.setattr(Path, "iterdir", lambda path: pytest.fail("a hard mount would hold it"))
    monkeypatch.setattr(os.path, "realpath", lambda path: pytest.fail("a hard mount would hold it"))
    share = settings.model_copy(update={"storage_url": str(tmp_path)})
    began = time.monotonic()
    assert found(Machine(share, find_variant("pocket"), quick=True).share) == []
    ((level, text, fix),) = found(StorageChecks(str(tmp_path)).storage)
    assert level is Level.FAILURE and f"{tmp_path}: it has not answered within 0.3 s" in text and "umount -f" in fix
    assert time.monotonic() - began < 100


def test_what_a_look_into_a_folder_meets(tmp_path):
    assert folder_probe.probe_folder(tmp_path) is None
    assert folder_probe.probe_folder(tmp_path / "missing").errno == errno.ENOENT
    (tmp_path / "file").touch()
    assert folder_probe.probe_folder(tmp_path / "file").errno == errno.ENOTDIR


def test_a_variant_that_does_not_fit_or_is_not_here(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("LTX_MODELS_DIR", str(tmp_path))
    machine = Machine(settings, find_variant("dev"), quick=True)
    ((level, text, fix),) = found(machine.memory)
    assert (level, fix) == (Level.FAILURE, "ltx-worker start --variant distilled-fp8")
    assert "dev needs 25 GB" in text
    ((level, _, fix),) = found(machine.weights)
    assert (level, fix) == (Level.FAILURE, "ltx models download dev")


@pytest.mark.parametrize(
    ("wired_limit", "level", "words"),
    [
        (60, Level.FAILURE, "no render with pocket begins here"),
        (900, Level.WARNING, "the largest renders with pocket go to other workers"),
        (2000, Level.OK, ""),
    ],
)
def test_a_gpu_that_may_use_too_little_memory(settings, monkeypatch, wired_limit, level, words):
    monkeypatch.setattr(WorkerSettings, "gpu_gb", wired_limit * 2**20 / GB)
    ((found_level, text, fix),) = found(Machine(settings, find_variant("pocket"), quick=True).memory)
    assert found_level is level and words in text
    assert ("iogpu.wired_limit_mb" in fix) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(100), "begins with zeros"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (struct.pack("<Q", len(LORA)) + LORA + bytes(4), "is a LoRA"),
    ],
)
def test_weights_that_are_none(settings, tmp_path, monkeypatch, data, words):
    damaged = tmp_path / "pocket.safetensors"
    damaged.write_bytes(data)
    files = {"checkpoint": damaged}
    monkeypatch.setattr(doctor_checks, "find_files", lambda variant: files)
    ((level, text, _),) = found(Machine(settings, find_variant("pocket"), quick=True).weights)
    assert level is Level.FAILURE
    assert str(damaged) in text
    assert words in text


def test_weights_that_differ_from_the_hubs(settings, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(
        doctor_checks, "verify", lambda variant: [(path, "its checksum is 1 instead of 2"), (tmp_path, "")]
    )
    ((level, text, fix),) = found(Machine(settings, find_variant("pocket"), quick=False).weights)
    assert level is Level.FAILURE and text.startswith(f"{path}: its checksum")
    assert fix.startswith(f"rm '{path}'")


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import os; os.abort()", "exit code -6"),
        ("import sys; sys.exit('no Metal device')", "no Metal device"),
        ("import time; time.sleep(60)", "did not answer in 0.5 s"),
    ],
)
def test_mlx_that_does_not_work(settings, monkeypatch, program, sentence):
    run = subprocess.run
    monkeypatch.setattr(doctor_checks, "PROBE_TIMEOUT", 0.5 if "sleep" in program else 120.0)
    monkeypatch.setattr(
        doctor_checks.subprocess, "run", lambda command, **more: run([sys.executable, "-c", program], **more)
    )
    ((level, text, fix),) = found(Machine(settings, find_variant("pocket"), quick=True).device)
    assert level is Level.FAILURE and fix
    assert sentence in text


def test_a_real_model_on_a_cpu_is_worth_a_word(settings):
    ((level, text, fix),) = found(Machine(settings, find_variant("distilled"), quick=True).device)
    assert "CPU" not in text or (level is Level.WARNING and "hours" in text and fix)


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_the_reference_blas(settings, monkeypatch):
    machine = Machine(settings, find_variant("pocket"), quick=True)
    machine._device = "cpu"
    monkeypatch.setattr(doctor_checks, "blas_environment", dict)
    ((level, _, fix),) = found(machine.blas)
    assert (level, fix) == (Level.WARNING, "sudo apt-get install libopenblas0-pthread")
    machine._device = "gpu"
    assert found(machine.blas) == []


def test_a_mac_that_is_well():
    findings = list(power_findings(PMSET.format(low=0, display=10, restart=1), ON_MAINS))
    assert [(finding.about, finding.level) for finding in findings] == [("display", "ok"), ("power", "ok")]


def test_a_mac_that_is_not():
    findings = list(power_findings(PMSET.format(low=1, display=0, restart=0), ON_BATTERY))
    assert [finding.level for finding in findings] == [Level.WARNING] * 4
    assert all(finding.fix for finding in findings)
    assert "never sleeps" in findings[0].text and "on battery" in findings[2].text


def test_the_local_network_of_a_mac():
    ((finding),) = local_network(65)
    assert "Local Network" in finding.fix
    assert list(local_network(61)) == list(local_network(None)) == []


def test_what_a_mac_says_that_we_do_not_know():
    assert list(power_findings("", "")) == []


def test_the_report(settings, monkeypatch, tmp_path):
    made(tmp_path)
    monkeypatch.setenv("LTX_STORAGE_URL", str(tmp_path))
    monkeypatch.setenv("LTX_BROKER_URL", "redis://worker:hush@127.0.0.1:1/0")
    shown = CliRunner().invoke(main, ["doctor", "--quick"])
    assert shown.exit_code == 1
    lines = shown.output.splitlines()
    (broker,) = (number for number, line in enumerate(lines) if line.startswith("failure"))
    assert "cannot reach the broker at 127.0.0.1:1" in lines[broker]
    assert lines[broker + 1].strip().startswith("fix: ")
    assert "hush" not in shown.output
    findings = json.loads(CliRunner().invoke(main, ["doctor", "--quick", "--json"]).output)
    assert {finding["about"] for finding in findings} >= {"device", "memory", "weights", "ffmpeg", "broker", "storage"}


def test_a_services_mends_name_the_file_that_it_reads(monkeypatch, tmp_path):
    """The service's own user cannot change the file that it reads, and has no configuration."""
    monkeypatch.setattr(doctor, "installed_home", lambda: tmp_path)
    monkeypatch.setattr(doctor, "installed_service", lambda: ("root", ()))
    monkeypatch.setenv("LTX_BROKER_URL", "redis://worker:hush@127.0.0.1:1/0")
    monkeypatch.delenv("LTX_STORAGE_URL", raising=False)
    findings = json.loads(CliRunner().invoke(main, ["doctor", "--quick", "--json"]).output)
    fixes = {finding["about"]: finding["mend"] for finding in findings}
    assert fixes["broker"] == f"start it, or in {ENVIRONMENT} set LTX_BROKER_URL to redis://USER@HOST:PORT/0"
    assert fixes["storage"] == f"in {ENVIRONMENT} set LTX_STORAGE_URL to URL, as the workers have it"


def test_a_broker_that_refuses_the_password_need_not_be_started():
    def refused():
        raise redis.AuthenticationError("WRONGPASS")

    ((_, _, fix),) = found(BrokerChecks(refused, SecretStr("redis://worker:hush@127.0.0.1:1/0"), Names()).broker)
    assert "start it" not in fix and "password" in fix


def test_a_variant_that_there_is_not():
    refused = CliRunner().invoke(main, ["doctor", "-v", "giant"])
    assert refused.exit_code == 2
    assert "there is no variant 'giant'" in refused.output


def test_without_a_farm_it_is_said_how_to_join_one(settings):
    findings = list(run_checks(worker_checks(settings, find_variant("pocket"), quick=True)))
    (broker,) = (finding for finding in findings if finding.about == "broker")
    assert broker.level is Level.FAILURE and "worker.env" in broker.fix
