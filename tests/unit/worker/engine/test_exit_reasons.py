"""Test what an engine's end says about its machine."""

import signal

import pytest

from ltx_worker.engine import exit_reasons
from ltx_worker.engine.exit_reasons import host_fault

METAL = "libc++abi: terminating due to uncaught exception: [METAL] Command buffer execution failed: "


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (METAL + "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", "ran out of memory"),
        (METAL + "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)", "took too long"),
        (METAL + "Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)", "took too long"),
        (
            METAL + "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
            "macOS ended the work for the display",
        ),
        (METAL + "Innocent Victim (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)", "reset"),
        ("RuntimeError: [metal::malloc] Unable to allocate 9663676416 bytes.", "memory ran out"),
        ("RuntimeError: [malloc_or_wait] Unable to allocate 1024 bytes.", "memory ran out"),
        ("MemoryError", "memory ran out"),
    ],
)
def test_an_output_that_speaks_of_the_machine(line, meaning):
    fault = host_fault(-signal.SIGABRT, ["loading", line, "abort"], None)
    assert meaning in str(fault)


@pytest.mark.parametrize(
    ("code", "output"),
    [
        (-signal.SIGSEGV, []),
        (1, ["Traceback (most recent call last):", "ValueError: shapes (1,2) and (3,) do not match"]),
        (-signal.SIGABRT, ["libc++abi: terminating due to uncaught exception"]),
        (0, []),
    ],
)
def test_an_end_that_may_be_the_jobs_doing(code, output):
    assert host_fault(code, output, 0) is None


def test_a_kill_is_for_memory_where_the_system_says_so(monkeypatch, tmp_path):
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(exit_reasons, "VMSTAT", vmstat)
    vmstat.write_text("pgfault 12\noom_kill 3\n")
    assert exit_reasons.kills_for_memory() == 3
    assert host_fault(-signal.SIGKILL, [], 3) is None
    assert "lack of memory" in str(host_fault(-signal.SIGKILL, [], 2))


def test_a_kill_on_a_mac_is_taken_to_be_for_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(exit_reasons, "VMSTAT", tmp_path / "none")
    for platform, expected in (("darwin", True), ("linux", False)):
        monkeypatch.setattr("sys.platform", platform)
        assert bool(host_fault(-signal.SIGKILL, [], exit_reasons.kills_for_memory())) is expected


def test_a_kill_by_the_worker_says_nothing_of_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(exit_reasons, "VMSTAT", tmp_path / "none")
    monkeypatch.setattr("sys.platform", "darwin")
    assert host_fault(-signal.SIGKILL, [], None, by_worker=True) is None
    assert "memory ran out" in str(host_fault(-signal.SIGKILL, ["MemoryError"], None, by_worker=True))


def test_a_bus_error_is_the_machines():
    assert host_fault(-signal.SIGBUS, [], None)
