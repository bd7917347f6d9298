"""`ltx-worker install`, `uninstall` and `logs`."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from pathlib import Path

import click

import ltx_worker
from ltx_client.protocol.children import run_shown
from ltx_client.protocol.screen import notice, print_line
from ltx_models.errors import ModelError
from ltx_models.variants import find_variant
from ltx_worker.service import launchd, systemd
from ltx_worker.service.apply import ServiceError, await_worker, describe, unreachable_part
from ltx_worker.service.apply import install as carry_out
from ltx_worker.service.apply import uninstall as undo
from ltx_worker.service.environment import ENVIRONMENT, given_settings
from ltx_worker.service.plan import Command, Plan, Setup

__all__ = ["install", "installed_home", "installed_service", "logs", "make_plan", "uninstall"]


@click.command(epilog="Example: sudo ltx-worker install --variant distilled-fp8")
@click.option("-v", "--variant", default="pocket", show_default=True, help="The model variant that the worker holds.")
@click.option("--user", help=f"Whom it runs as.  [default: {systemd.DEFAULT_USER}; on macOS {launchd.DEFAULT_USER}]")
@click.option("--log-level", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
@click.option("--dry-run", is_flag=True, help="Print what would be written and run, and do nothing.")
@click.option("--agent", is_flag=True, help="On macOS: a worker of your own, from login to logout, without root.")
@click.option("--restart", is_flag=True, help="Start it anew, if it runs: as after a change of its settings.")
@click.option("--no-start", is_flag=True, help="Write everything, and start nothing.")
@click.option("--platform", type=click.Choice(["linux", "darwin"]), help="With --dry-run: for which system.")
def install(
    variant: str,
    user: str | None,
    log_level: str,
    agent: bool,
    restart: bool,
    no_start: bool,
    dry_run: bool,
    platform: str | None,
) -> None:
    """Has a worker run as a service of this machine, from now on and after each start.

    It runs as a user of its own, which is made if there is none. Where the farm is stands in
    /etc/ltx-farm/worker.env (mode 0600), with a line such as LTX_BROKER_URL='…' for each setting. If there is no such
    file yet, it is made, with the LTX_… variables that are set now; no password belongs on sudo's command line, which
    is logged. Again, this changes only what is not as it should be. The worker is started once the settings name a
    broker, and waited for.

    On macOS, --agent installs a worker of the user who runs this: it sees the shares that this user mounts, which no
    service does; macOS asks once whether it may use the local network.
    """
    if restart and no_start:
        raise click.UsageError("--restart starts the service, and --no-start does not; name one of them")
    if platform and not dry_run:
        raise click.UsageError("--platform is for --dry-run: a service is installed on the machine that runs it")
    try:
        plan = make_plan(platform or sys.platform, find_variant(variant).name, user, log_level, agent=agent)
    except (ModelError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if dry_run:
        for line in "\n".join(describe(plan)).split("\n"):
            print_line(line)
        if "LTX_BROKER_URL" not in given_settings(dict(os.environ)) and not ENVIRONMENT.exists():
            notice(f"LTX_BROKER_URL is not set: the service would know no farm; set it, or write it to {ENVIRONMENT}")
        return
    _require_user("install", agent=agent)
    python = plan.setup.python
    if not agent and (folder := unreachable_part(python, python.resolve(), Path(ltx_worker.__file__))):
        raise click.UsageError(
            f"the user {plan.setup.user} could not enter {folder}, in which ltx-farm is installed;"
            " install it where all can read it, such as in a virtual environment under /opt"
        )
    _carry_out(plan, agent=agent, restart=restart, no_start=no_start)


def _carry_out(plan: Plan, *, agent: bool, restart: bool, no_start: bool) -> None:
    settings, home = plan.setup.environment, plan.setup.home
    start = not no_start and (_names_a_broker(settings) or "LTX_BROKER_URL" in os.environ)
    try:
        carry_out(plan, notice, start=start, restart=restart)
        if start:
            when = "login of yours" if agent else "start of the machine"
            notice(f"the service runs (process {await_worker(home)}), and will after each {when}")
    except ServiceError as error:
        raise click.ClickException(str(error)) from error
    if agent and start:
        notice("macOS may ask whether Python may find devices on the local network: allow it, or no broker is reached")
    if not (start or no_start):
        notice(f"now say in {settings} where the farm is, and run this again: it is not started before")


@click.command(epilog="Example: sudo ltx-worker uninstall")
@click.option("--agent", is_flag=True, help="On macOS: your own worker, which `install --agent` made.")
def uninstall(agent: bool) -> None:
    """Stops the service and removes it. The settings, the worker's folder and its user stay."""
    _require_user("uninstall", agent=agent)
    try:
        undo(make_plan(sys.platform, "pocket", None, "INFO", agent=agent), notice)
    except ServiceError as error:
        raise click.ClickException(str(error)) from error


@click.command(epilog="Example: ltx-worker logs -n 50 --follow")
@click.option("-n", "--lines", type=click.IntRange(1), default=100, show_default=True, help="How many, from the end.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C.")
def logs(lines: int, follow: bool) -> None:
    """Shows the end of the service's log."""
    if sys.platform == "darwin":
        kind = _own_agent() if _own_agent().plist.exists() else launchd.DAEMON
        command = launchd.log_command(lines, follow=follow, kind=kind)
    else:
        command = systemd.log_command(lines, follow=follow)
    try:
        sys.exit(run_shown(command))
    except FileNotFoundError:
        raise click.ClickException(f"there is no {command[0]} on this machine") from None
    except KeyboardInterrupt:
        sys.exit(0)


def make_plan(platform: str, variant: str, user: str | None, log_level: str, *, agent: bool = False) -> Plan:
    """Return the service of this installation. Raises ValueError for a platform that has neither kind of it."""
    given = given_settings(dict(os.environ))
    python = Path(sys.executable)
    if agent:
        if platform != "darwin":
            raise ValueError("--agent is for macOS; elsewhere a service sees what its machine mounts")
        if user:
            raise ValueError("--agent installs a worker of the user who runs this; --user is for a service")
        home = _agent_home()
        setup = Setup(variant, pwd.getpwuid(os.getuid()).pw_name, python, home, home / ENVIRONMENT.name, log_level)
        return launchd.plan(setup, given, 0, _own_agent())
    if platform == "darwin":
        setup = Setup(variant, user or launchd.DEFAULT_USER, python, launchd.HOME, ENVIRONMENT, log_level)
        return launchd.plan(setup, given, launchd.free_id(_ids()))
    if platform == "linux":
        setup = Setup(variant, user or systemd.DEFAULT_USER, python, systemd.HOME, ENVIRONMENT, log_level)
        return systemd.plan(setup, given)
    raise ValueError(f"there are services for macOS and Linux, not for {platform}")


def _ids() -> set[int]:
    users, groups = pwd.getpwall(), grp.getgrall()
    return {entry.pw_uid for entry in users} | {entry.gr_gid for entry in groups}


def installed_service() -> tuple[str, Command] | None:
    """Return the user and the command of this machine's service; None where none is installed."""
    return launchd.installed() if sys.platform == "darwin" else systemd.installed()


def installed_home() -> Path | None:
    """The LTX_HOME of this machine's service, if one is installed."""
    if sys.platform != "darwin":
        return systemd.HOME if systemd.UNIT_PATH.exists() else None
    if launchd.DAEMON.plist.exists():
        return launchd.HOME
    return _agent_home() if _own_agent().plist.exists() else None


def _own_agent() -> launchd.Kind:
    return launchd.agent(Path.home(), os.getuid())


def _agent_home() -> Path:
    return Path.home() / "Library" / "Application Support" / "ltx-farm"


def _require_user(what: str, *, agent: bool) -> None:
    if agent and os.geteuid() == 0:
        raise click.UsageError(f"--agent is for the user whose worker it is, not for root: ltx-worker {what} --agent")
    if not agent and os.geteuid() != 0:
        raise click.UsageError(f"services belong to root; sudo ltx-worker {what}")


def _names_a_broker(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return any(line.strip().startswith("LTX_BROKER_URL=") for line in lines)
