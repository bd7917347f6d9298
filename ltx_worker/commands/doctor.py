"""`ltx-worker doctor`."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from pydantic import ValidationError

from ltx_client.shared.console.child_output import ending_with_us
from ltx_client.shared.doctor.checks import Check, Finding
from ltx_client.shared.doctor.deep_checks import DEEP_REPORT, DeepChecks
from ltx_client.shared.doctor.report import report as print_report
from ltx_models.errors import ModelError
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant
from ltx_worker.commands.service import installed_home, installed_service
from ltx_worker.service.environment import ENVIRONMENT, UnsafeFile, load_environment
from ltx_worker.settings import WorkerSettings

__all__ = ["doctor"]

CONFIG_SET = re.compile(r"\bltx config set (\w+)")
KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "COLUMNS", "NO_COLOR", "TZ")
"""Of root's environment, what the service's user is given to look with."""


@click.command(epilog="Example: sudo ltx-worker doctor --variant distilled-fp8")
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
    from ltx_worker.commands.doctor_checks import worker_checks  # the hub's client takes a while to import

    if report and not deep:
        raise click.UsageError("--report is for --deep, which was not given")
    home, service = installed_home(), installed_service()
    variant = variant or _option_of(service, "--variant")
    own_settings = Path(_option_of(service, "--env-file") or ENVIRONMENT)
    if service and not service[0] and os.geteuid() == 0 and not env_file:
        raise click.UsageError(f"the worker of {home} is a user's own: that user runs this, without sudo")
    if home and service and not env_file and os.geteuid() == 0 and service[0] != "root":
        flags = [flag for flag, given in (("--quick", quick), ("--deep", deep), ("--json", as_json)) if given]
        given = [
            *(("--variant", variant) if variant else ()),
            *(("--report", str(report.absolute())) if report else ()),
        ]
        sys.exit(_as_user(service[0], home, ["doctor", *given, *flags]))
    try:
        if env_file or (home and "LTX_BROKER_URL" not in os.environ):
            load_environment(env_file or own_settings)
            if home and not env_file:
                os.environ.setdefault("LTX_HOME", str(home))
        settings, row = WorkerSettings(), find_variant(variant or DEFAULT_VARIANT)
        checks = worker_checks(settings, row, quick=quick)
        if home and not env_file:
            checks = [_of_a_service(check, own_settings) for check in checks]
        if deep:
            checks += DeepChecks(row.name, report or settings.home / DEEP_REPORT).checks()
    except ValidationError:
        raise
    except (UnsafeFile, ModelError, ValueError) as error:
        root = "; sudo ltx-worker doctor looks as the service does" if service and service[0] and os.geteuid() else ""
        raise click.UsageError(f"{error}{root if isinstance(error, UnsafeFile) else ''}") from error
    sys.exit(print_report(checks, as_json=as_json))


def _option_of(service: tuple[str, Sequence[str]] | None, name: str) -> str | None:
    """Return the value of an option in a service's command."""
    words = service[1] if service else ()
    return next((value for option, value in itertools.pairwise(words) if option == name), None)


def _of_a_service(check: Check, settings: Path) -> Check:
    """Return it with mends for a service, which reads its own file of settings, and no configuration of root's."""

    @functools.wraps(check)
    def checked() -> Iterator[Finding]:
        for found in check():
            mend = CONFIG_SET.sub(lambda name: f"in {settings} set LTX_{name[1].upper()} to", found.fix)
            yield dataclasses.replace(found, fix=mend)

    return checked


def _as_user(name: str, home: Path, arguments: Sequence[str]) -> int:
    """Run `ltx-worker` as a user with all its groups, as a service manager does, and return its exit code.

    What root sees is something else: its own caches, shares of one user's, files that it alone may read.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise click.UsageError(f"the service runs as {name}, and there is no such user; install it again") from None
    environment = {key: value for key, value in os.environ.items() if key in KEPT}
    environment |= {"HOME": str(home), "LTX_HOME": str(home), "USER": name, "LOGNAME": name}
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ltx_worker", *arguments],
            env=environment,
            cwd=home if home.is_dir() else "/",
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=os.getgrouplist(name, entry.pw_gid),
        )
    except OSError as error:
        raise click.UsageError(
            f"the user {name} cannot start {sys.executable}: {error.strerror}; install ltx-farm where all can read it,"
            " such as in a virtual environment under /opt"
        ) from error
    with process, ending_with_us(process):
        return process.wait()
