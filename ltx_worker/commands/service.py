"""The commands `ltx-worker install`, `uninstall` and `logs`."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import sys
from pathlib import Path

import click
import psutil

import ltx_worker
from ltx_client.shared.console.child_output import run_shown
from ltx_client.shared.console.stdio import notice, print_line
from ltx_models.errors import ModelError
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant
from ltx_worker.machine.home import forget_refusal
from ltx_worker.membership.instance_lock import is_ending, running_worker
from ltx_worker.service import launchd, systemd
from ltx_worker.service.apply import ServiceError, await_worker, describe, unreachable_part
from ltx_worker.service.apply import install as carry_out
from ltx_worker.service.apply import uninstall as undo
from ltx_worker.service.environment import ENVIRONMENT, UnsafeFile, given_settings, settings_in
from ltx_worker.service.plan import Command, Plan, Setup

__all__ = ["as_the_service", "install", "installed_home", "installed_service", "logs", "make_plan", "uninstall"]

USER_NAME = re.compile(r"[^\W-][\w.\\@-]*\$?")
"""The user names that are valid in a unit and in newsyslog.conf, which macOS rejects as a whole for one bad line."""

NO_SCREEN = 125
"""The exit code of launchctl for the domain of a user who has logged in by SSH only, not at the screen."""


def install(
    *,
    variant: str,
    user: str | None,
    log_level: str,
    agent: bool,
    restart: bool,
    no_start: bool,
    dry_run: bool,
    platform: str | None,
) -> None:
    """Install the service, as `ltx-worker install` says."""
    if restart and no_start:
        raise click.UsageError("--restart is invalid with --no-start; use one of them")
    if platform and not dry_run:
        raise click.UsageError("--platform is invalid without --dry-run: a service is installed on its own machine")
    try:
        plan = make_plan(platform or sys.platform, find_variant(variant).name, user, log_level, agent=agent)
    except (ModelError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if dry_run:
        for line in "\n".join(describe(plan)).split("\n"):
            print_line(line)
        settings = plan.setup.environment
        if "LTX_BROKER_URL" not in given_settings(dict(os.environ)) and not _is_there(settings):
            notice(f"LTX_BROKER_URL is not set: the service would have no broker; set it, or write it to {settings}")
        return
    _require_user("install", agent=agent)
    python = plan.setup.python
    paths = (python, python.resolve(), Path(ltx_worker.__file__))
    if not agent and (folder := unreachable_part(*paths, user=plan.setup.user)):
        raise click.UsageError(
            f"the user {plan.setup.user} cannot enter {folder}, in which ltx-farm is installed; install it where all"
            " users can read it, such as in a virtual environment under /opt, made with umask 022"
        )
    environment = plan.setup.environment
    if not agent and environment.parent.exists() and (folder := unreachable_part(environment, user=plan.setup.user)):
        raise click.UsageError(
            f"the user {plan.setup.user} cannot enter {folder}, which contains its {environment.name};"
            f" use chmod 755 {folder}"
        )
    _carry_out(plan, agent=agent, restart=restart, no_start=no_start)


def _carry_out(plan: Plan, *, agent: bool, restart: bool, no_start: bool) -> None:
    settings, home, given = plan.setup.environment, plan.setup.home, given_settings(dict(os.environ))
    try:
        kept = settings_in(settings) if settings.exists() else given
        start = not no_start and "LTX_BROKER_URL" in kept
        before = running_worker(home)
        restart = restart or not _runs(before, plan.setup.command())
        if start:
            forget_refusal(home)  # so that a refusal that is shown is of this start
        carry_out(plan, notice, start=start, restart=restart)
        if unlike := [name for name, value in given.items() if kept.get(name) != value]:
            notice(
                f"{settings} was not changed; these variables of the environment differ from it: {', '.join(unlike)}"
            )
        if start:
            when = "login of yours" if agent else "start of the machine"
            pid = await_worker(plan, notice)
            if ends := is_ending(home, pid):
                notice(f"the worker (process {pid}) was asked to end, and ends after its job; --restart restarts it")
            else:
                notice(f"the service runs (process {pid}), and starts after each {when}")
            if pid == before and not ends:
                notice("it ran before, and still ends after `stop` or `drain`; --restart restarts it")
        elif before is not None and not no_start:
            does = "is ending, as was asked" if is_ending(home, before) else "runs as before"
            notice(f"a worker {does} (process {before or 'unknown'})")
    except ServiceError as error:
        hint = "; it is written, and starts when you log in at this Mac's screen" if error.code == NO_SCREEN else ""
        raise click.ClickException(f"{error}{hint}") from error
    except UnsafeFile as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(_why_not(error)) from error
    if sys.platform == "darwin" and _is_there((launchd.DAEMON if agent else _own_agent()).plist):
        notice(
            f"this Mac has {'a service' if agent else 'an agent'} too: two workers share its GPU, and each takes jobs"
            " for three quarters of its memory unless LTX_WORKER_MEMORY_GB is set lower; uninstall one of them"
        )
    if agent and start:
        notice("macOS may ask whether Python may find devices on the local network: allow it to use the broker")
    if not (start or no_start):
        notice(f"the worker is not started yet: set LTX_BROKER_URL in {settings}, and run this again")


def uninstall(*, agent: bool) -> None:
    """Stop the service and remove it. The settings, the worker's folder and its user stay."""
    _require_user("uninstall", agent=agent)
    try:
        service = None if agent else launchd.installed() if sys.platform == "darwin" else systemd.installed()
        undo(make_plan(sys.platform, DEFAULT_VARIANT, service[0] if service else None, "INFO", agent=agent), notice)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except ServiceError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(_why_not(error)) from error


def logs(*, lines: int, follow: bool) -> None:
    """Show the end of the service's log."""
    if sys.platform == "darwin":
        kind = _installed_kind() or launchd.DAEMON
        if not (_is_there(kind.log) or _is_there(kind.error_log)):
            raise click.ClickException(f"the log {kind.log} is missing: no service has run here yet")
        command = launchd.log_command(lines, follow=follow, kind=kind)
    else:
        command = systemd.log_command(lines, follow=follow)
    try:
        sys.exit(run_shown(command))
    except FileNotFoundError:
        raise click.ClickException(f"the program {command[0]} is missing on this machine") from None
    except KeyboardInterrupt:
        sys.exit(0)


def make_plan(platform: str, variant: str, user: str | None, log_level: str, *, agent: bool = False) -> Plan:
    """Return the plan of this installation's service.

    Args:
        platform: the system, as `sys.platform` names it.
        variant: the variant that the worker serves.
        user: the user that it runs as; None for the default.
        log_level: the level of its log.
        agent: whether to plan a user's own worker on macOS.

    Raises:
        ValueError: the user or an option is invalid, or there are no services for the platform.
    """
    given = given_settings(dict(os.environ))
    python = Path(sys.executable)
    if user and not USER_NAME.fullmatch(user):
        raise ValueError(f"--user {user!r} is invalid: a user's name is needed; use letters, digits, '.', '_' and '-'")
    if agent:
        if platform != "darwin":
            raise ValueError("--agent is invalid on this system: only macOS has agents; install a service without it")
        if user:
            raise ValueError("--user is invalid with --agent, which installs a worker of the user who runs it; omit it")
        home = _agent_home()
        setup = Setup(variant, pwd.getpwuid(os.getuid()).pw_name, python, home, home / ENVIRONMENT.name, log_level)
        return launchd.plan(setup, given, 0, _own_agent())
    if platform == "darwin":
        setup = Setup(variant, user or launchd.DEFAULT_USER, python, launchd.HOME, ENVIRONMENT, log_level)
        return launchd.plan(setup, given, _id_of(setup.user))
    if platform == "linux":
        setup = Setup(variant, user or systemd.DEFAULT_USER, python, systemd.HOME, ENVIRONMENT, log_level)
        return systemd.plan(setup, given)
    raise ValueError(f"a service cannot be installed on {platform}; use macOS or Linux")


def _id_of(user: str) -> int:
    """Return the id of a Mac's user, or a free one for a user who does not exist yet."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        users, groups = pwd.getpwall(), grp.getgrall()
        return launchd.free_id({entry.pw_uid for entry in users} | {entry.gr_gid for entry in groups})


def installed_service() -> tuple[str, Command] | None:
    """Return the user and the command of the installed service; None if there is none. The user of an agent is ""."""
    if sys.platform != "darwin":
        return systemd.installed()
    kind = _installed_kind()
    return launchd.installed(kind.plist) if kind else None


def as_the_service(text: str, command: str) -> str:
    """Return a text with a command, changed so that an operator runs the command as the service's user.

    It is changed only where this process runs as that user, who has a cache of its own.
    """
    service, home = installed_service(), installed_home()
    if not (service and home and service[0] == _user_name()):
        return text
    names = ("LTX_MODELS_DIR", "HF_HOME", "HF_HUB_CACHE")
    given = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    words = ["sudo", "-u", service[0], "env", f"HOME={home}", *given, str(Path(sys.executable).with_name("ltx"))]
    return text.replace(command, f"{shlex.join(words)} {command.removeprefix('ltx ')}")


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def installed_home() -> Path | None:
    """Return the LTX_HOME of this machine's service, or of this user's agent; None if none is installed."""
    if sys.platform != "darwin":
        return systemd.HOME if systemd.UNIT_PATH.exists() else None
    kind = _installed_kind()
    if kind is None:
        return None
    return _agent_home() if kind.is_agent else launchd.HOME


def _installed_kind() -> launchd.Kind | None:
    """Return which kind of a Mac's service is installed; if both are, the daemon for root and the agent for a user.

    On macOS sudo keeps HOME, so root may find a user's agent.
    """
    kinds = (launchd.DAEMON, _own_agent()) if os.geteuid() == 0 else (_own_agent(), launchd.DAEMON)
    return next((kind for kind in kinds if _is_there(kind.plist)), None)


def _own_agent() -> launchd.Kind:
    return launchd.agent(Path.home(), os.getuid())


def _agent_home() -> Path:
    return Path.home() / "Library" / "Application Support" / "ltx-farm"


def _require_user(what: str, *, agent: bool) -> None:
    if agent and os.geteuid() == 0:
        raise click.UsageError(f"--agent is invalid for root; as the worker's user, use ltx-worker {what} --agent")
    if not agent and os.geteuid() != 0:
        own = "; for a worker of your own, use --agent without root" if sys.platform == "darwin" else ""
        raise click.UsageError(f"a service needs root's rights; use sudo ltx-worker {what}{own}")


def _runs(pid: int | None, command: Command) -> bool:
    """Return whether a worker's process runs this command, or may run it.

    If not, the service is restarted, since the service manager knows only the files that it read last.
    """
    try:
        words = psutil.Process(pid).cmdline() if pid else []
    except psutil.Error:
        return False
    return pid == 0 or tuple(words[1 : len(command)]) == command[1:]  # macOS has a framework's Python start another one


def _why_not(error: OSError) -> str:
    what = f"cannot write {error.filename or 'a file'}: {error.strerror or error}"
    return f"{what}; let this user write it, and run this again"


def _is_there(path: Path) -> bool:
    """Return whether a path exists, as far as this user may see."""
    return os.path.exists(path)  # noqa: PTH110 - which raises no OSError
