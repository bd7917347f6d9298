"""The worker as a systemd unit, which logs to the journal."""

from __future__ import annotations

import shlex
from pathlib import Path

from ltx_worker.service.environment import environment_text
from ltx_worker.service.plan import Command, File, Folder, Plan, Setup

__all__ = ["DEFAULT_USER", "HOME", "UNIT_PATH", "installed", "log_command", "plan"]

DEFAULT_USER = "ltx-farm"
HOME = Path("/var/lib/ltx-farm")
UNIT = "ltx-farm-worker.service"
UNIT_PATH = Path("/etc/systemd/system") / UNIT

_UNIT = """\
# Written by `ltx-worker install`; changes are lost when it runs again.
[Unit]
Description=ltx-farm worker ({variant})
Wants=network-online.target
After=network-online.target
# A broker that does not answer for hours must not end the restarts.
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
ExecStart={command}
Environment=LTX_HOME={home} PYTHONUNBUFFERED=1
WorkingDirectory={home}
# A worker that drained or was stopped stays down; so does one with wrong settings (2).
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=2
# The current job goes back to the queue; the engine ends with its worker.
KillMode=mixed
TimeoutStopSec=60
# The kernel may kill the engine for its memory; the worker reports it and continues.
OOMPolicy=continue
# It has only its user's rights, and no way to get others. Left out: what would block the GPU (PrivateDevices,
# DeviceAllow, and ProtectClock, which sets it), the models or the storage wherever they are (ProtectSystem=strict,
# ProtectHome, PrivateUsers, UMask), or the kernels that MLX compiles (MemoryDenyWriteExecute).
CapabilityBoundingSet=
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
ProtectProc=invisible
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def plan(setup: Setup, given: dict[str, str]) -> Plan:
    """Return the plan of the service on Linux.

    Args:
        setup: the operator's choices.
        given: the settings in a new environment file.
    """
    unit = _UNIT.format(
        variant=setup.variant,
        user=setup.user,
        command=shlex.join(setup.command()).replace("%", "%%"),
        home=setup.home,
    )
    home = str(setup.home)
    return Plan(
        setup=setup,
        folders=(Folder(setup.home, 0o750, setup.user),),
        files=(
            File(UNIT_PATH, unit),
            File(setup.environment, environment_text(given), 0o600, setup.user, keep=True),
        ),
        make_user=(("useradd", "--system", "--home-dir", home, "--shell", "/usr/sbin/nologin", setup.user),),
        changed=(("systemctl", "stop", UNIT),),
        enable=(("systemctl", "daemon-reload"), ("systemctl", "enable", UNIT)),
        start=(("systemctl", "start", UNIT),),
        unload=(("systemctl", "disable", "--now", UNIT),),
        is_loaded=("systemctl", "is-active", "--quiet", UNIT),
        has_failed=("systemctl", "is-failed", "--quiet", UNIT),
    )


def installed(path: Path = UNIT_PATH) -> tuple[str, Command] | None:
    """Return the user and the command of the installed service; None if there is none, or it cannot be read."""
    try:
        lines = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
        return lines["User"], tuple(shlex.split(lines["ExecStart"].replace("%%", "%")))
    except (OSError, ValueError, KeyError):
        return None


def log_command(lines: int, *, follow: bool) -> Command:
    """Return the command that shows the end of the service's log."""
    return ("journalctl", "--unit", UNIT, "--lines", str(lines), "--no-pager", *(("--follow",) if follow else ()))
