"""The worker as a job of launchd, of one of two kinds.

A LaunchDaemon runs without a logged-in user, and has access to the local network without asking. A LaunchAgent belongs
to a logged-in user: it sees the shares that this user mounts, which no daemon does, runs from login to logout, and has
no access to the local network until its user has allowed it once.
"""

from __future__ import annotations

import os
import plistlib
from dataclasses import dataclass
from pathlib import Path
from xml.parsers.expat import ExpatError

from ltx_worker.service.environment import environment_text
from ltx_worker.service.plan import Command, File, Folder, Plan, Setup

__all__ = [
    "DAEMON",
    "DEFAULT_USER",
    "HOME",
    "Kind",
    "agent",
    "free_id",
    "installed",
    "is_job_of_launchd",
    "log_command",
    "plan",
]

DEFAULT_USER = "_ltxfarm"
HOME = Path("/var/lib/ltx-farm")
LABEL = "farm.ltx.worker"
BOOTSTRAP_TIMEOUT = 15.0
"""Seconds for which loading a service is tried: now and then launchd refuses it for a while ("Bootstrap failed: 5:
Input/output error").
"""
NEWSYSLOG = Path("/etc/newsyslog.d/ltx-farm.conf")
ROLE_IDS = range(450, 500)
"""The ids that macOS gives to the accounts of services."""

_NEWSYSLOG = """\
# Written by `ltx-worker install`. For Python's output when it cannot start; the worker rotates its own log.
# The group is left out: macOS users have no group of their own name, and newsyslog stops at an unknown group.
# logfilename                      [owner:group]  mode count size when flags
{path}  {user}:  640  3  1024  *  N
"""


@dataclass(frozen=True)
class Kind:
    """A daemon or an agent.

    Attributes:
        domain: the domain of launchd in which it runs.
        plist: its file.
        logs: the folder of its logs.
        is_agent: whether it is an agent.
    """

    domain: str
    plist: Path
    logs: Path
    is_agent: bool = False

    @property
    def target(self) -> str:
        """Return its name for launchctl."""
        return f"{self.domain}/{LABEL}"

    @property
    def log(self) -> Path:
        """Return the worker's log, which the worker rotates: launchd would continue to write into the moved file."""
        return self.logs / "worker.log"

    @property
    def error_log(self) -> Path:
        """Return the file with Python's output when it cannot start."""
        return self.logs / "worker.err"


DAEMON = Kind("system", Path("/Library/LaunchDaemons") / f"{LABEL}.plist", Path("/var/log/ltx-farm"))


def agent(user_home: Path, uid: int) -> Kind:
    """Return the kind of a logged-in user's own worker."""
    library = user_home / "Library"
    return Kind(f"gui/{uid}", library / "LaunchAgents" / f"{LABEL}.plist", library / "Logs" / "ltx-farm", is_agent=True)


def plan(setup: Setup, given: dict[str, str], user_id: int, kind: Kind = DAEMON) -> Plan:
    """Return the plan of the service on macOS.

    Args:
        setup: the operator's choices.
        given: the settings in a new environment file.
        user_id: the id of a daemon's new user.
        kind: a daemon or an agent.
    """
    home = str(setup.home)
    service: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": list(setup.command("--log-file", str(kind.log))),
        "WorkingDirectory": home,
        "EnvironmentVariables": {"LTX_HOME": home, "PYTHONUNBUFFERED": "1"} | ({} if kind.is_agent else {"HOME": home}),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},  # a worker that drained or was stopped stays down
        "ThrottleInterval": 10,
        "ExitTimeOut": 60,
        "ProcessType": "Interactive",  # neither slowed down nor put on the efficiency cores
        "AbandonProcessGroup": False,
        "StandardOutPath": str(kind.error_log),
        "StandardErrorPath": str(kind.error_log),
    }
    if not kind.is_agent:
        service["UserName"] = setup.user
    root = setup.user if kind.is_agent else "root"
    files = [
        File(kind.plist, plistlib.dumps(service, sort_keys=False).decode(), owner=root),
        File(setup.environment, environment_text(given), 0o600, setup.user, keep=True),
    ]
    if not kind.is_agent:
        files.insert(1, File(NEWSYSLOG, _NEWSYSLOG.format(path=kind.error_log, user=setup.user)))
    return Plan(
        setup=setup,
        folders=(Folder(setup.home, 0o750, setup.user), Folder(kind.logs, 0o755, setup.user)),
        files=tuple(files),
        make_user=() if kind.is_agent else _make_user(setup, user_id),
        changed=(("launchctl", "bootout", kind.target),),
        enable=(("launchctl", "enable", kind.target),),
        start=(("launchctl", "bootstrap", kind.domain, str(kind.plist)), ("launchctl", "kickstart", kind.target)),
        unload=(("launchctl", "bootout", kind.target),),
        is_loaded=("launchctl", "print", kind.target),
        start_timeout=BOOTSTRAP_TIMEOUT,
    )


def free_id(taken: set[int]) -> int:
    """Return the first id for an account of a service that no user and no group has.

    Raises:
        ValueError: all ids are taken.
    """
    if free := [number for number in ROLE_IDS if number not in taken]:
        return free[0]
    raise ValueError(
        f"all ids that macOS has for services are taken ({ROLE_IDS[0]} to {ROLE_IDS[-1]}); use --user with a user that"
        " exists"
    )


def installed(path: Path = DAEMON.plist) -> tuple[str, Command] | None:
    """Return the user and the command of the installed service; None if there is none, or it cannot be read.

    The user of an agent is "", since its file names none.
    """
    try:
        service = plistlib.loads(path.read_bytes())
        return str(service.get("UserName", "")), tuple(map(str, service["ProgramArguments"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, plistlib.InvalidFileException, ExpatError):
        return None


def is_job_of_launchd() -> bool:
    """Return whether launchd has started this process as its service."""
    return os.environ.get("XPC_SERVICE_NAME") == LABEL


def log_command(lines: int, *, follow: bool, kind: Kind = DAEMON) -> Command:
    """Return the command that shows the end of the worker's log and of its error log."""
    return ("tail", "-n", str(lines), *(("-F",) if follow else ()), str(kind.error_log), str(kind.log))


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
