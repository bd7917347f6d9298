"""The `ltx-worker` command: what its commands are called and take. Their modules are imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltx_client.shared.console.entry_point import interrupt_ends_at_once
from ltx_client.shared.console.lazy_group import raised_by
from ltx_client.shared.console.stdio import Group
from ltx_models.families.variants import DEFAULT_VARIANT
from ltx_worker.service import launchd, systemd

__all__ = ["main"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _Group(Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except raised_by("ltx_client.shared.config", "ConfigError") as error:
            raise click.UsageError(str(error)) from error
        except raised_by("pydantic_core", "ValidationError") as error:  # of the settings
            from ltx_client.shared.settings import why_invalid

            raise click.UsageError(why_invalid(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ltx-farm")
def main() -> None:
    """Runs this machine as a worker of the farm."""


@main.command(epilog="Example: LTX_BROKER_URL=redis://farm:6379/0 LTX_STORAGE_URL=/mnt/farm ltx-worker start -v pocket")
@click.option(
    "-v", "--variant", default=DEFAULT_VARIANT, show_default=True, help="The model variant that this worker holds."
)
@click.option("--log-level", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
@click.option("--log-file", type=click.Path(path_type=Path), help="Log here instead of to stderr, rotated at 10 MB.")
@click.option("--env-file", type=click.Path(path_type=Path), help="Read LTX_… settings here first; mode 0600.")
@click.option("--no-op", is_flag=True, hidden=True, help="Render nothing: for `ltx bench farm`.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="End when whoever holds our stdin is gone.")
def start(
    variant: str,
    log_level: str,
    log_file: Path | None,
    env_file: Path | None,
    no_op: bool,
    until_stdin_closes: bool,
) -> None:
    """Serves jobs of one variant until stopped (SIGTERM or Ctrl-C: the job in hand goes back to the queue)."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import start
    start.start(
        variant=variant,
        log_level=log_level,
        log_file=log_file,
        env_file=env_file,
        no_op=no_op,
        until_stdin_closes=until_stdin_closes,
    )


@main.command(epilog="Example: ltx-worker drain")
def drain() -> None:
    """Has this machine's worker finish the job in hand, take no more, and end."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import control
    control.drain()


@main.command(epilog="Example: ltx-worker resume")
def resume() -> None:
    """Has this machine's worker take jobs again, after it paused itself. What `ltx pause` began, `ltx resume` ends."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import control
    control.resume()


@main.command(epilog="Example: ltx-worker stop")
def stop() -> None:
    """Has this machine's worker give its job back to the queue and end."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import control
    control.stop()


@main.command(epilog="Example: ltx-worker status")
def status() -> None:
    """Tells whether a worker runs on this machine: exit code 0 if so, as while it ends, 1 if not."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import control
    control.status()


@main.command(epilog="Example: sudo ltx-worker install --variant distilled-fp8")
@click.option(
    "-v", "--variant", default=DEFAULT_VARIANT, show_default=True, help="The model variant that the worker holds."
)
@click.option("--user", help=f"Whom it runs as.  [default: {systemd.DEFAULT_USER}; on macOS {launchd.DEFAULT_USER}]")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="How much it logs.",
)
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
    with interrupt_ends_at_once():
        from ltx_worker.commands import service
    service.install(
        variant=variant,
        user=user,
        log_level=log_level,
        agent=agent,
        restart=restart,
        no_start=no_start,
        dry_run=dry_run,
        platform=platform,
    )


@main.command(epilog="Example: sudo ltx-worker uninstall")
@click.option("--agent", is_flag=True, help="On macOS: your own worker, which `install --agent` made.")
def uninstall(agent: bool) -> None:
    """Stops the service and removes it. The settings, the worker's folder and its user stay."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import service
    service.uninstall(agent=agent)


@main.command(epilog="Example: ltx-worker logs -n 50 --follow")
@click.option("-n", "--lines", type=click.IntRange(1), default=100, show_default=True, help="How many, from the end.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C.")
def logs(lines: int, follow: bool) -> None:
    """Shows the end of the service's log."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import service
    service.logs(lines=lines, follow=follow)


@main.command(epilog="Example: sudo ltx-worker doctor --variant distilled-fp8")
@click.option(
    "-v", "--variant", help=f"The model variant that is to be held.  [default: the service's, else {DEFAULT_VARIANT}]"
)
@click.option("--quick", is_flag=True, help="Do not read the model's files through.")
@click.option("--deep", is_flag=True, help="Compute for some minutes, and write a report: is it right, and how fast?")
@click.option("--report", type=click.Path(path_type=Path), help="With --deep: the report.  [default: in LTX_HOME]")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option("--env-file", type=click.Path(path_type=Path), help="Settings to read first.  [default: the service's]")
def doctor(
    variant: str | None, quick: bool, deep: bool, report: Path | None, as_json: bool, env_file: Path | None
) -> None:
    """Looks at this machine as a worker, at the broker and the storage, and says what is wrong and what mends it.

    As root on a machine that has the service, it looks as the service does: as its user, with its settings and its
    variant. Exit code 1 when something has failed; a warning is no failure.
    """
    with interrupt_ends_at_once():
        from ltx_worker.commands import doctor
    doctor.doctor(variant=variant, quick=quick, deep=deep, report=report, as_json=as_json, env_file=env_file)
