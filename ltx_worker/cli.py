"""The `ltx-worker` command: the names and options of its commands, whose modules are imported when they run."""

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
    """Run this machine as a worker of the farm."""


@main.command(epilog="Example: LTX_BROKER_URL=redis://farm:6379/0 LTX_STORAGE_URL=/mnt/farm ltx-worker start -v pocket")
@click.option(
    "-v", "--variant", default=DEFAULT_VARIANT, show_default=True, help="The model variant that the worker serves."
)
@click.option(
    "--log-level", default="INFO", show_default=True, help="Log from this level: DEBUG, INFO, WARNING or ERROR."
)
@click.option("--log-file", type=click.Path(path_type=Path), help="Log here instead of to stderr, rotated at 10 MB.")
@click.option("--env-file", type=click.Path(path_type=Path), help="Read LTX_… settings here first; mode 0600.")
@click.option("--no-op", is_flag=True, hidden=True, help="Render nothing: for `ltx bench farm`.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="End when stdin is closed.")
def start(
    variant: str,
    log_level: str,
    log_file: Path | None,
    env_file: Path | None,
    no_op: bool,
    until_stdin_closes: bool,
) -> None:
    """Serve jobs of one variant until stopped (SIGTERM or Ctrl-C: the current job goes back to the queue)."""
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
    """Make this machine's worker finish its current job, take no more, and end."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import control
    control.drain()


@main.command(epilog="Example: ltx-worker resume")
def resume() -> None:
    """Make this machine's worker take jobs again after it paused itself; `ltx resume` ends a pause by `ltx pause`."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import control
    control.resume()


@main.command(epilog="Example: ltx-worker stop")
def stop() -> None:
    """Make this machine's worker give its job back to the queue, and end."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import control
    control.stop()


@main.command(epilog="Example: ltx-worker status")
def status() -> None:
    """Show whether a worker runs on this machine; the exit code is 0 if it runs or is ending, else 1."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import control
    control.status()


@main.command(epilog="Example: sudo ltx-worker install --variant distilled-fp8")
@click.option(
    "-v", "--variant", default=DEFAULT_VARIANT, show_default=True, help="The model variant that the worker serves."
)
@click.option("--user", help=f"Run as this user.  [default: {systemd.DEFAULT_USER}; on macOS {launchd.DEFAULT_USER}]")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="The level of its log.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be written and run, and change nothing.")
@click.option("--agent", is_flag=True, help="On macOS: install your own worker, from login to logout, without root.")
@click.option("--restart", is_flag=True, help="Restart it if it runs, for example after a change of its settings.")
@click.option("--no-start", is_flag=True, help="Write all files, and start nothing.")
@click.option("--platform", type=click.Choice(["linux", "darwin"]), help="With --dry-run: the system to print for.")
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
    """Install a worker as a service of this machine, and start it now and after each start of the machine.

    The service runs as a user of its own, which is made if it does not exist. Its settings are in
    /etc/ltx-farm/worker.env (mode 0600), one a line, such as LTX_BROKER_URL='…'. If that file does not exist, it is
    made from the LTX_… variables that are set now. Put no password on sudo's command line, which is logged. When it is
    repeated, this command changes only what differs. It starts the worker if the settings name a broker, and waits
    until it runs.

    On macOS, --agent installs a worker of the user who runs this command: it sees the shares that this user mounts,
    which no service does. macOS asks once whether it may use the local network.
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
@click.option("--agent", is_flag=True, help="On macOS: uninstall your own worker, which `install --agent` installed.")
def uninstall(agent: bool) -> None:
    """Stop the service and remove it. The settings, the worker's folder and its user stay."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import service
    service.uninstall(agent=agent)


@main.command(epilog="Example: ltx-worker logs -n 50 --follow")
@click.option("-n", "--lines", type=click.IntRange(1), default=100, show_default=True, help="Show this many lines.")
@click.option("-f", "--follow", is_flag=True, help="Continue as the log grows, until Ctrl-C.")
def logs(lines: int, follow: bool) -> None:
    """Show the end of the service's log."""
    with interrupt_ends_at_once():
        from ltx_worker.commands import service
    service.logs(lines=lines, follow=follow)


@main.command(epilog="Example: sudo ltx-worker doctor --variant distilled-fp8")
@click.option("-v", "--variant", help=f"The model variant to serve.  [default: the service's, else {DEFAULT_VARIANT}]")
@click.option("--quick", is_flag=True, help="Do not verify the model's files.")
@click.option("--deep", is_flag=True, help="Compute for some minutes, and report whether it is right, and how fast.")
@click.option("--report", type=click.Path(path_type=Path), help="With --deep: the report.  [default: in LTX_HOME]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--env-file", type=click.Path(path_type=Path), help="Read settings here first.  [default: the service's]")
def doctor(
    variant: str | None, quick: bool, deep: bool, report: Path | None, as_json: bool, env_file: Path | None
) -> None:
    """Check this machine as a worker, the broker and the storage; say what is wrong, and how to fix it.

    As root on a machine with the service, the checks run as the service does: as its user, with its settings and its
    variant. The exit code is 1 if a check has failed; a warning is no failure.
    """
    with interrupt_ends_at_once():
        from ltx_worker.commands import doctor
    doctor.doctor(variant=variant, quick=quick, deep=deep, report=report, as_json=as_json, env_file=env_file)
