"""The LaunchDaemon: it runs without anybody logged in, and reaches the local network without anybody being asked.

macOS keeps a LaunchAgent from the local network until somebody allows it, and loads it only when its user logs in.
"""

from __future__ import annotations

import os
import plistlib
from pathlib import Path

from ltx_worker.service.environment import environment_text
from ltx_worker.service.plan import Command, File, Folder, Plan, Setup

__all__ = ["DEFAULT_USER", "HOME", "LOG", "PLIST_PATH", "free_id", "is_job_of_launchd", "log_command", "plan"]

DEFAULT_USER = "_ltxfarm"
HOME = Path("/var/lib/ltx-farm")
LABEL = "farm.ltx.worker"
PLIST_PATH = Path("/Library/LaunchDaemons") / f"{LABEL}.plist"
LOGS = Path("/var/log/ltx-farm")
LOG = LOGS / "worker.log"
"""The worker rotates it itself: launchd holds the files that it opens, and goes on writing into one that was moved."""
LAST_WORDS = LOGS / "worker.err"
NEWSYSLOG = Path("/etc/newsyslog.d/ltx-farm.conf")
ROLE_IDS = range(450, 500)
"""Where macOS has the accounts of services."""
TARGET = f"system/{LABEL}"
BOOTSTRAP_PATIENCE = 15.0
"""Seconds: launchd refuses a service for a while now and then ("Bootstrap failed: 5: Input/output error")."""

_NEWSYSLOG = """\
# Written by `ltx-worker install`. What Python says when it cannot start; the worker's own log is rotated by itself.
# A user of macOS has no group of its own name, and newsyslog stops at one that there is not, for all logs: so none.
# logfilename                      [owner:group]  mode count size when flags
{path}  {user}:  640  3  1024  *  N
"""


def plan(setup: Setup, given: dict[str, str], user_id: int) -> Plan:
    """The service on macOS. given: what the environment file is to hold at first.  user_id: for a new user."""
    service = {
        "Label": LABEL,
        "ProgramArguments": list(setup.command("--log-file", str(LOG))),
        "UserName": setup.user,
        "WorkingDirectory": str(setup.home),
        "EnvironmentVariables": {"HOME": str(setup.home), "LTX_HOME": str(setup.home), "PYTHONUNBUFFERED": "1"},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},  # a worker that drained or was stopped stays down
        "ThrottleInterval": 10,
        "ExitTimeOut": 60,
        "ProcessType": "Interactive",  # neither slowed down nor put on the efficiency cores
        "AbandonProcessGroup": False,
        "StandardOutPath": str(LAST_WORDS),
        "StandardErrorPath": str(LAST_WORDS),
    }
    return Plan(
        setup,
        folders=(Folder(setup.home, 0o750, setup.user), Folder(LOGS, 0o755, setup.user)),
        files=(
            File(PLIST_PATH, plistlib.dumps(service, sort_keys=False).decode()),
            File(NEWSYSLOG, _NEWSYSLOG.format(path=LAST_WORDS, user=setup.user)),
            File(setup.environment, environment_text(given), 0o600, setup.user, keep=True),
        ),
        make_user=_make_user(setup, user_id),
        changed=(("launchctl", "bootout", TARGET),),
        enable=(("launchctl", "enable", TARGET),),
        start=(("launchctl", "bootstrap", "system", str(PLIST_PATH)), ("launchctl", "kickstart", TARGET)),
        unload=(("launchctl", "bootout", TARGET),),
        is_loaded=("launchctl", "print", TARGET),
        patience=BOOTSTRAP_PATIENCE,
    )


def is_job_of_launchd() -> bool:
    """Return whether launchd has started this process as its service."""
    return os.environ.get("XPC_SERVICE_NAME") == LABEL


def free_id(taken: set[int]) -> int:
    """Return the first id for an account of a service that no user and no group has."""
    return next(number for number in ROLE_IDS if number not in taken)


def log_command(lines: int, *, follow: bool) -> Command:
    """Show the end of the worker's log, and of what it said when it could not start."""
    return ("tail", "-n", str(lines), *(("-F",) if follow else ()), str(LAST_WORDS), str(LOG))


def _make_user(setup: Setup, user_id: int) -> tuple[Command, ...]:
    user, group = f"/Users/{setup.user}", f"/Groups/{setup.user}"
    records = [
        (group, "PrimaryGroupID", str(user_id)),
        (user, "UniqueID", str(user_id)),
        (user, "PrimaryGroupID", str(user_id)),
        (user, "RealName", "ltx-farm worker"),
        (user, "NFSHomeDirectory", str(setup.home)),
        (user, "UserShell", "/usr/bin/false"),
        (user, "Password", "*"),
        (user, "IsHidden", "1"),
    ]
    return tuple(("dscl", ".", "-create", *record) for record in records)
