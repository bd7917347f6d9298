"""Test the output of a Mac's own programs, of macOS 14, 15 and 26, and strange, missing, failing and slow ones."""

import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltx_client.errors import FarmError
from ltx_client.local.join import join
from ltx_client.local.members import Use
from ltx_client.protocol.jobs import Job, new_job_id
from ltx_client.protocol.workers import fits_gpu
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.storage.store import Storage, StorageError
from ltx_models.errors import FaultKind, InvalidRequest
from ltx_models.families.variants import find_variant
from ltx_models.files import volumes
from ltx_models.machine_faults import fault_in_output
from ltx_models.memory import GB, check_fits, memory_class, predict_peak
from ltx_models.request import GenerationRequest
from ltx_worker.http.server import BoundedHandler, BoundedServer
from ltx_worker.machine import duty_hours, probes, system_programs
from ltx_worker.machine.duty_hours import DutyHours
from ltx_worker.machine.home import UnusableHome, make_home
from ltx_worker.machine.mac import (
    UNUSED,
    no_apple_silicon,
    power_findings,
    share_findings,
    why_display_is_on,
    working_set,
)
from ltx_worker.machine.probes import Probes
from ltx_worker.machine.thermal import Heat, Thermometer
from ltx_worker.membership import heartbeat
from ltx_worker.observe.metrics import Metrics
from ltx_worker.settings import WorkerSettings

ASSERTIONS = """\
2026-11-29 22:14:03 +0100
Assertion status system-wide:
   BackgroundTask                 0
   ApplePushServiceTask           0
   UserIsActive                   {active}
   PreventUserIdleDisplaySleep    {kept}
   PreventSystemSleep             0
   ExternalMedia                  0
   PreventUserIdleSystemSleep     1
   NetworkClientActive            0
Listed by owning process:
   pid 158(powerd): [0x0000000500008b3b] 00:00:58 PreventUserIdleSystemSleep named: "Powerd - Prevent sleep while display is on"
   pid 401(WindowServer): [0x00064dd5000997d1] 00:00:00 UserIsActive named: "com.apple.iohideventsystem.queue.tickle serviceID:100000b0a service:AppleUserHIDEventService product:Apple Internal Keyboard / Trackpad"
No kernel assertions.
"""  # noqa: E501
NEVER_SLEEPS = "Currently in use:\n displaysleep         0 (display sleep prevented by caffeinate)\n"
SLEEPS = "Currently in use:\n displaysleep         10\n"
IOREG = '    | |   "HIDIdleTime" = {nanoseconds}\n'


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Replace the system's programs, by name: what each prints, or a shell line."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(system_programs, "FOLDERS", ())
    monkeypatch.setattr(sys, "platform", "darwin")

    def make(**lines):
        for name, line in lines.items():
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\n{line}\n")
            path.chmod(0o755)

    return make


def printed(text):
    return f"/bin/cat <<'END'\n{text}\nEND"


@pytest.mark.parametrize(
    ("assertions", "settings", "since_input", "why"),
    [
        (ASSERTIONS.format(active=1, kept=0), SLEEPS, 3.0, "somebody uses it"),
        (ASSERTIONS.format(active=0, kept=1), SLEEPS, 3.0, "a program keeps its display on"),
        (ASSERTIONS.format(active=0, kept=0), NEVER_SLEEPS, 3.0, "its display never sleeps"),
        (ASSERTIONS.format(active=0, kept=0), SLEEPS, 3.0, ""),
        (ASSERTIONS.format(active=1, kept=1), NEVER_SLEEPS, UNUSED, ""),
        (ASSERTIONS.format(active=1, kept=0), "", None, "somebody uses it"),
        ("", NEVER_SLEEPS, None, ""),
        ("", "", None, ""),
        ("Assertion status system-wide:\n   UserIsActive  what\n", "displaysleep none", None, ""),
        (
            "Assertion status system-wide:\n   UserIsActive  what\n",
            "displaysleep none",
            1.0,
            "somebody used it 1 s ago",
        ),
        ("", SLEEPS, 3.0, "somebody used it 3 s ago"),
        (ASSERTIONS.format(active=1, kept=0) + "\n   UserIsActive  0\n", SLEEPS, 3.0, "somebody uses it"),
    ],
)
def test_whether_the_display_is_on(assertions, settings, since_input, why):
    found = why_display_is_on(assertions, settings, since_input)
    assert found.startswith(why) and bool(found) == bool(why)


def test_a_display_that_needed_the_gpu_is_waited_for(programs, tmp_path):
    words = "[METAL] Command buffer execution failed: Impacting Interactivity (0000000e:kIOGPUCommandBuffer…)"
    fault = fault_in_output(words)
    assert fault.kind is FaultKind.DISPLAY
    assert "pmset displaysleepnow" in str(fault) and "LTX_WORKER_UNUSED_FOR=300" in str(fault)

    probe = Probes([], None, None, lambda: False)
    probe._files = probe._write = lambda: None
    programs(pmset=printed(ASSERTIONS.format(active=1, kept=0)), ioreg=printed(IOREG.format(nanoseconds=10**9)))
    probes_encode, probes._encode = probes._encode, lambda: None
    try:
        found = probe.quick(fault.kind)
        assert found.confirmed and found.kind is FaultKind.DISPLAY, "so no strike is counted, and the machine pauses"
        assert "somebody uses it, and its display is on" in str(found)
        programs(pmset=printed(ASSERTIONS.format(active=0, kept=0)))
        assert probe.quick(fault.kind) is None
        assert probe.thorough(fault.kind) is None
        programs(pmset=printed(ASSERTIONS.format(active=1, kept=0)), ioreg=printed(IOREG.format(nanoseconds=10**12)))
        assert probe.quick(fault.kind) is None, "nobody has touched it for long"
    finally:
        probes._encode = probes_encode


@pytest.mark.parametrize("line", ["exec /bin/sleep 600", "exit 3", r"printf '\377\376'", None])
def test_a_program_that_is_slow_missing_or_odd_ends_no_thread(programs, monkeypatch, line):
    monkeypatch.setattr(system_programs.output_of, "__kwdefaults__", {"timeout": 0.3})
    monkeypatch.setattr("ltx_worker.machine.thermal.TIMEOUT", 0.3)
    if line is not None:
        programs(pmset=line, ioreg=line, sysctl=line, notifyutil=line)
    began = time.monotonic()
    assert duty_hours.seconds_since_input() is None
    assert Thermometer().read() == Heat()
    assert heartbeat.chip_name()
    assert system_programs.output_of("pmset", "-g") in ("", "\ufffd\ufffd")
    assert "it is unknown" in DutyHours(battery=True, unused_for=5.0, hours=()).why()
    assert time.monotonic() - began < 100


def test_a_program_that_cannot_be_started(programs, monkeypatch):
    programs(pmset="exit 0")

    def fail(*_, **__):
        raise OSError("no memory")

    monkeypatch.setattr(subprocess, "run", fail)
    assert system_programs.output_of("pmset") == ""


@pytest.mark.parametrize(
    ("name", "value", "low"), [("lowpowermode", 1, True), ("powermode", 1, True), ("powermode", 2, False)]
)
def test_low_power_is_told_of_macs_with_and_without_a_high_power_mode(name, value, low):
    found = [finding.fix for finding in power_findings(f" {name}         {value}\n", "")]
    assert found == ([f"sudo pmset -a {name} 0"] if low else [])


@pytest.mark.parametrize(
    ("memory", "wired_limit", "expected"),
    [
        (16 * 2**30, "0\n", 11_453_246_122),
        (32 * 2**30, "", 22_906_492_245),
        (64 * 2**30, "0", 51_539_607_552),
        (16 * 2**30, "14336\n", 14 * 2**30),
        (16 * 2**30, "99999999", 16 * 2**30),
        (16 * 2**30, "sysctl: unknown oid", 11_453_246_122),
        (16 * 2**30, "\u00b2", 11_453_246_122),
        (16 * 2**30, "9" * 5000, 11_453_246_122),
    ],
)
def test_what_a_macs_gpu_may_use(memory, wired_limit, expected):
    assert working_set(memory, wired_limit) == expected


def test_a_worker_claims_no_job_that_its_gpu_cannot_hold(programs, monkeypatch):
    """A memory class may be larger than what the GPU of a 16 GB Mac may use."""
    programs(sysctl="echo 0")
    monkeypatch.setattr("ltx_worker.settings.machine_memory", lambda: 16 * 2**30)
    settings = WorkerSettings(worker_memory_gb=12.88, broker_url=None)
    assert settings.gpu_gb == pytest.approx(11.45, abs=0.01)
    assert 12 in settings.memory_classes
    variant = find_variant("distilled-fp8")

    def job(frames):
        request = GenerationRequest(prompt="x", width=1216, height=1152, num_frames=frames, seed=0).resolve(variant)
        peak = predict_peak(variant, request)
        assert memory_class(peak) == 12
        return Job(id=new_job_id(), variant=variant.name, request=request, predicted_peak=peak, submitter="a@b")

    small, large = job(97), job(257)
    assert fits_gpu(small, settings.gpu_gb) and not fits_gpu(large, settings.gpu_gb)
    assert fits_gpu(large, None) and fits_gpu(large, 12.0)
    check_fits(variant, small.request, int(settings.gpu_gb * GB))
    with pytest.raises(InvalidRequest, match="may use"):
        check_fits(variant, large.request, int(settings.gpu_gb * GB))


MOUNTS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
//ann@nas.local/farm on /Volumes/farm (smbfs, nodev, nosuid, mounted by ann)
nas.local:/export/farm on /net/farm (nfs, nodev, nosuid, automounted, nobrowse)
//bob@nas.local/alle on /Volumes/fu\u0308r alle, gro\u00df (smbfs, nodev, nosuid, mounted by bob)
//ann@nas.local/hidden on /Volumes/hidden (smbfs, nodev, nosuid, mounted by ann)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse)
nas.local:/export/opt on /System/Volumes/Data/opt/farm (nfs, nodev, nosuid)
/dev/disk5s1 on /Volumes/My Disk (1) (apfs, local, nodev, nosuid, journaled, noowners, mounted by ann)
"""


@pytest.mark.parametrize(
    ("folder", "user", "failed", "level", "said"),
    [
        ("/Volumes/farm/videos", "_ltxfarm", None, Level.FAILURE, "macOS shows it to ann only, and not to _ltxfarm"),
        ("/Volumes/farm/videos", "ann", None, Level.OK, "/Volumes/farm is smbfs, mounted by ann"),
        ("/net/farm", "_ltxfarm", errno.EPERM, Level.FAILURE, "macOS keeps this program from /net/farm"),
        (
            "/net/farm",
            "_ltxfarm",
            errno.EACCES,
            Level.FAILURE,
            "_ltxfarm may not enter /net/farm: its owner or its mode",
        ),
        ("/net/farm", "_ltxfarm", None, Level.OK, "/net/farm is nfs, mounted by root"),
        ("/Volumes/other/videos", "ann", None, Level.FAILURE, "nothing is mounted at /Volumes/other"),
        ("/Volumes/My Disk (1)/videos", "ann", None, Level.OK, "/Volumes/My Disk (1) is apfs, mounted by ann"),
        ("/private/videos", "ann", errno.EPERM, Level.FAILURE, "macOS keeps this program from /private/videos"),
        ("/Volumes/My Disk (1)/videos", "ann", errno.EPERM, Level.FAILURE, "from /Volumes/My Disk (1)/videos"),
        ("/net/farm", "_ltxfarm", errno.ESTALE, Level.FAILURE, "and cannot be read: Stale file handle"),
        ("/net/farm", "_ltxfarm", errno.EIO, Level.FAILURE, "/net/farm is nfs, mounted by root, and cannot be read"),
        ("/volumes/FARM/videos", "_ltxfarm", None, Level.FAILURE, "macOS shows it to ann only"),
        ("/volumes/other/videos", "ann", None, Level.FAILURE, "nothing is mounted at /volumes/other"),
        ("/Volumes/f\u00fcr alle, gro\u00df/x", "ann", None, Level.FAILURE, "bob has mounted"),
        ("/Volumes/hidden/x", "_ltxfarm", errno.EACCES, Level.FAILURE, "macOS shows it to ann only"),
        ("/opt/farm/videos", "ann", None, Level.OK, "/System/Volumes/Data/opt/farm is nfs"),
    ],
)
def test_why_a_share_cannot_be_used(monkeypatch, folder, user, failed, level, said):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in ("/Volumes/farm", "/Volumes/My Disk (1)"))
    error = OSError(failed, os.strerror(failed)) if failed else None
    (finding,) = share_findings(Path(folder), MOUNTS, user, "/opt/python3.12", error)
    assert finding.level is level and said in finding.text
    assert bool(finding.fix) == (level is Level.FAILURE)
    if failed == errno.EPERM and level is Level.FAILURE:
        assert "Full Disk Access: add /opt/python3.12" in finding.fix


@pytest.mark.parametrize(
    ("platform", "machine", "translated", "said"),
    [
        ("darwin", "x86_64", "1\n", "runs under Rosetta"),
        ("darwin", "x86_64", "0\n", "has an Intel processor"),
        ("darwin", "x86_64", "", "has an Intel processor"),
        ("darwin", "arm64", "0\n", None),
        ("linux", "x86_64", "", None),
    ],
)
def test_an_intel_python_is_told_from_an_intel_mac(monkeypatch, platform, machine, translated, said):
    monkeypatch.setattr(sys, "platform", platform)
    found = no_apple_silicon(machine, translated)
    assert said in found.text if said else found is None


def test_no_intel_python_is_told_to_install_mlx(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for system, machine, said in (("darwin", "x86_64", "a Python for arm64"), ("linux", "x86_64", "pip install")):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr("platform.machine", lambda name=machine: name)
        with pytest.raises(FarmError, match=said), join(tmp_path, Use.READ, "pocket"):
            pass


def test_a_storage_that_is_a_link_is_looked_at_where_it_leads(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "farm").symlink_to("/net/farm")
    (finding,) = share_findings(tmp_path / "farm", MOUNTS, "ann", "python", None)
    assert "/net/farm is nfs" in finding.text


def test_a_storage_that_is_missing_has_no_share_that_is_right(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    missing = OSError(errno.ENOENT, "No such file or directory")
    assert list(share_findings(Path("/net/farm/videos"), MOUNTS, "ann", "python", missing)) == []


def test_a_display_that_a_program_keeps_on_is_not_said_to_sleep():
    line = " displaysleep         10 (display sleep prevented by zoom.us, Google Chrome)\n"
    (found,) = power_findings(f"Currently in use:\n{line} sleep   1 (sleep prevented by powerd)\n", "")
    assert found.level is Level.WARNING and found.text.startswith("zoom.us, Google Chrome keeps the display on")


def test_nothing_is_said_of_mounts_that_cannot_be_read():
    assert list(share_findings(Path("/Users/ann/videos"), "", "ann", "python", None)) == []
    assert list(share_findings(Path("/Users/ann/videos"), "mount: odd\n on \n", "ann", "python", None)) == []


def test_no_server_asks_for_its_own_name(monkeypatch, tmp_path):
    """`http.server` does when it starts, and macOS 15 and 26 answer after 35 s."""

    def slow(*_):
        raise AssertionError("a name is resolved while the worker starts")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "getnameinfo"):
        monkeypatch.setattr(socket, name, slow)
    for address in ("127.0.0.1", "0.0.0.0"):
        BoundedServer((address, 0), BoundedHandler).server_close()
    metrics = Metrics("pocket")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    metrics.serve("127.0.0.1", port)
    metrics.stop()


def test_no_folder_is_made_where_a_share_is_not_mounted(monkeypatch, tmp_path):
    """Finder would then mount the share under another name, farm-1."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(volumes, "VOLUMES", tmp_path)
    farm = tmp_path / "farm"
    with pytest.raises(StorageError, match=f"nothing is mounted at {farm}"):
        Storage(str(farm)).init()
    with pytest.raises(StorageError, match="nothing is mounted at"):
        Storage(str(farm / "videos")).init()
    with pytest.raises(UnusableHome, match="nothing is mounted at"):
        make_home(farm / "home")
    with pytest.raises(FileNotFoundError, match="mount the share first"):
        volumes.check_mounted(farm / "models" / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "Macintosh HD").symlink_to("/")
    for there in (tmp_path / "Macintosh HD" / "Users", Path("/Users/ann"), tmp_path):
        volumes.check_mounted(there)
    farm.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == farm)
    assert Storage(str(farm)).init()
