"""Read the output of macOS's own programs about power, display and mounts, and find what is wrong."""

from __future__ import annotations

import errno
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from ltx_client.shared.doctor.checks import Finding, Level
from ltx_models.files.volumes import unmounted_volume

__all__ = [
    "LOCAL_NETWORK_ERROR",
    "local_network",
    "no_apple_silicon",
    "power_findings",
    "share_findings",
    "why_display_is_on",
    "working_set",
]

LOCAL_NETWORK_ERROR = 65
"""EHOSTUNREACH: the error when macOS keeps a program from the local network, and also when a host is off."""


ELSEWHERE = (
    "for a service, use S3, or NFS by autofs with Full Disk Access for its Python; if you mount the share yourself,"
    " use a worker of your own: ltx-worker install --agent"
)
NETWORK = ("smbfs", "nfs", "afpfs", "webdav")
DATA = "/System/Volumes/Data"
"""The mount point of the disk with everything that is not macOS's own; its folders appear at / too."""
_MOUNT = re.compile(r".+ on (/.*) \(([^()]*)\)")
SMALL_MAC = 32 * 2**30
UNUSED = 300.0
"""Seconds without input after which a Mac is taken to be unused."""


def why_display_is_on(assertions: str, settings: str, since_input: float | None) -> str:
    """Return why a Mac's display is on and in use, in a sentence; "" if it sleeps, is unused, or that is unknown.

    Args:
        assertions: the output of `pmset -g assertions`.
        settings: the output of `pmset -g`.
        since_input: seconds since the last input; None if unknown.
    """
    if since_input is not None and since_input >= UNUSED:
        return ""
    said = reversed(re.findall(r"^\s*(\w+)\s+(\d+)\s*$", assertions, re.MULTILINE))
    states = dict(said)  # of two, the first: programs, which name their assertions as they like, are listed below
    if states.get("UserIsActive", "0") != "0":
        return "somebody uses it, and its display is on"
    if states.get("PreventUserIdleDisplaySleep", "0") != "0":
        return "a program keeps its display on"
    if since_input is not None and _settings(settings).get("displaysleep") == "0":
        return "its display never sleeps"
    if since_input is not None and "UserIsActive" not in states:
        return f"somebody used it {since_input:.0f} s ago, and pmset does not report whether its display is on"
    return ""


def power_findings(settings: str, battery: str) -> Iterator[Finding]:
    """Yield the findings about a Mac's display and power.

    Args:
        settings: the output of `pmset -g`.
        battery: the output of `pmset -g batt`.
    """
    values = _settings(settings)
    if values.get("displaysleep") == "0":
        text = "the display never sleeps: while it is on, macOS ends work that uses the GPU for long"
        yield Finding("display", Level.WARNING, text, "sudo pmset -a displaysleep 10")
    elif kept_on := re.search(r"^\s*displaysleep\s.*\(display sleep prevented by (.+)\)", settings, re.MULTILINE):
        text = f"{kept_on[1]} keeps the display on: meanwhile macOS ends work that uses the GPU for long"
        yield Finding("display", Level.WARNING, text, "quit it while this Mac renders, or pmset displaysleepnow")
    elif "displaysleep" in values:
        yield Finding("display", Level.OK, f"it sleeps after {values['displaysleep']} min")
    # Macs that have a high power mode report powermode: 0 automatic, 1 low, 2 high.
    if low := next((name for name in ("lowpowermode", "powermode") if values.get(name) == "1"), None):
        yield Finding("power", Level.WARNING, "low power mode is on: renders are slow", f"sudo pmset -a {low} 0")
    if "Battery Power" in battery:
        fix = "plug it in, or set LTX_WORKER_ON_BATTERY=false, so that it takes no jobs on battery"
        yield Finding("power", Level.WARNING, "it is on battery", fix)
    elif "AC Power" in battery:
        yield Finding("power", Level.OK, "it is plugged in")
    if values.get("autorestart") == "0":
        fix = "sudo pmset -a autorestart 1"
        yield Finding("power", Level.WARNING, "it stays off after a power failure", fix)


def _settings(output: str) -> dict[str, str]:
    return dict(re.findall(r"^\s*(\w+)\s+(\d+)", output, re.MULTILINE))


def no_apple_silicon(machine: str, translated: str) -> Finding | None:
    """Return why a Mac's Python cannot use MLX; None if it can, and on other systems.

    Args:
        machine: the value of `platform.machine()`.
        translated: the output of `sysctl -n sysctl.proc_translated`, 1 under Rosetta.
    """
    if sys.platform != "darwin" or machine == "arm64":
        return None
    if translated.strip() == "1":
        text = "this Python is for Intel and runs under Rosetta; MLX is for arm64"
        return Finding("device", Level.FAILURE, text, "install a Python for arm64, such as that of `brew install uv`")
    text = "this Mac has an Intel processor, for which there is no MLX"
    return Finding("device", Level.FAILURE, text, "use a Mac with Apple silicon, and macOS 14 or later")


def share_findings(folder: Path, mounts: str, user: str, python: str, failed: OSError | None) -> Iterator[Finding]:
    """Yield why a Mac's worker cannot use a storage that is a folder, as far as its mount shows.

    Args:
        folder: the storage.
        mounts: the output of `mount`.
        user: the user that the worker runs as.
        python: the worker's program.
        failed: the error of reading the folder, or None.
    """
    lines = [match.groups() for match in map(_MOUNT.fullmatch, mounts.split("\n")) if match]
    wanted = _as_macos_compares(os.path.realpath(folder))
    here = [(point, options) for point, options in lines if wanted.is_relative_to(_as_macos_compares(point))]
    point, options = max(here, key=lambda mount: len(_as_macos_compares(mount[0]).parts), default=("", ""))
    volume = unmounted_volume(folder)
    if volume and not _as_macos_compares(point).is_relative_to(_as_macos_compares(str(volume))):
        text = f"nothing is mounted at {volume}: a share that Finder mounts is there while its user is logged in"
        yield Finding("share", Level.FAILURE, text, ELSEWHERE)
        return
    if not here:
        return
    kind, *flags = [option.strip() for option in options.split(",")]
    by = next((flag.removeprefix("mounted by ") for flag in flags if flag.startswith("mounted by ")), "root")
    if kind == "smbfs" and by != user:
        text = f"{point} is an SMB share that {by} has mounted; macOS shows it to {by} only, and not to {user}"
        yield Finding("share", Level.FAILURE, text, ELSEWHERE)
    elif failed is not None and failed.errno == errno.EPERM:  # also from other disks, and from Documents and the like
        text = f"macOS keeps this program from {f'{point}, a network volume' if kind in NETWORK else folder}"
        fix = f"System Settings, Privacy & Security, Full Disk Access: add {python}, after each upgrade too"
        yield Finding("share", Level.FAILURE, text, fix)
    elif failed is not None and failed.errno == errno.EACCES:
        text = f"{user} may not enter {folder}: its owner or its mode on the server forbids it"
        yield Finding("share", Level.FAILURE, text, f"let {user} read and write there, on the server")
    elif failed is not None and failed.errno not in (errno.ENOENT, errno.ENOTDIR):
        text = f"{point} is {kind}, mounted by {by}, and cannot be read: {failed.strerror or failed}"
        yield Finding("share", Level.FAILURE, text, f"umount -f '{point}', and mount it again once its server answers")
    elif failed is None:
        yield Finding("share", Level.OK, f"{point} is {kind}, mounted by {by}")


def _as_macos_compares(path: str) -> Path:
    """Return a path as most of a Mac's disks compare it, whatever its case and the Unicode form of its accents."""
    shared = path.removeprefix(DATA) or os.sep
    return Path(unicodedata.normalize("NFC", shared).casefold())


def working_set(memory: int, wired_limit: str) -> int:
    """Return the most bytes of a Mac's memory that Metal recommends its GPU to use.

    Args:
        memory: bytes.
        wired_limit: the output of `sysctl -n iogpu.wired_limit_mb`, 0 or "" where nobody has set one.
    """
    limit = int(wired_limit) if re.fullmatch(r"[0-9]{1,12}", wired_limit.strip()) else 0
    if limit:
        return min(limit * 2**20, memory)
    return memory * 2 // 3 if memory <= SMALL_MAC else memory * 3 // 4


def local_network(error_number: int | None) -> Iterator[Finding]:
    """Yield a finding if macOS may keep this program from the local network.

    Args:
        error_number: of the failure to reach the broker, on macOS.
    """
    if error_number == LOCAL_NETWORK_ERROR:
        yield Finding(
            "local network",
            Level.FAILURE,
            "the broker cannot be reached: it is off, or macOS keeps this program from the local network",
            "System Settings, Privacy & Security, Local Network; a service (ltx-worker install) needs no permission",
        )
