"""The command `ltx-worker doctor`."""

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
"""The variables of root's environment that a check as the service's user gets."""


def doctor(
    *, variant: str | None, quick: bool, deep: bool, report: Path | None, as_json: bool, env_file: Path | None
) -> None:
    """Check this machine as a worker, and exit with code 1 if a check has failed."""
    from ltx_worker.commands.doctor_checks import worker_checks  # the hub's client takes a while to import

    if report and not deep:
        raise click.UsageError("--report is invalid without --deep; use both")
    home, service = installed_home(), installed_service()
    variant = variant or _option_of(service, "--variant")
    own_settings = Path(_option_of(service, "--env-file") or ENVIRONMENT)
    if service and not service[0] and os.geteuid() == 0 and not env_file:
        raise click.UsageError(f"the worker of {home} is a user's own; run this as that user, without sudo")
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
        root = "; use sudo ltx-worker doctor" if service and service[0] and os.geteuid() else ""
        raise click.UsageError(f"{error}{root if isinstance(error, UnsafeFile) else ''}") from error
    sys.exit(print_report(checks, as_json=as_json))


def _option_of(service: tuple[str, Sequence[str]] | None, name: str) -> str | None:
    """Return the value of an option in a service's command."""
    words = service[1] if service else ()
    return next((value for option, value in itertools.pairwise(words) if option == name), None)


def _of_a_service(check: Check, settings: Path) -> Check:
    """Return a check whose fixes suit a service, which reads its own settings and no configuration of root's."""

    @functools.wraps(check)
    def checked() -> Iterator[Finding]:
        for found in check():
            fix = CONFIG_SET.sub(lambda name: f"in {settings} set LTX_{name[1].upper()} to", found.fix)
            yield dataclasses.replace(found, fix=fix)

    return checked


def _as_user(name: str, home: Path, arguments: Sequence[str]) -> int:
    """Run `ltx-worker` as a user with all its groups, as a service manager does; return its exit code.

    Root itself would see other caches, no shares that one user has mounted, and files that only root may read.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise click.UsageError(f"the service runs as {name}, and that user does not exist; install it again") from None
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
            f"the user {name} cannot start {sys.executable}: {error.strerror}; install ltx-farm where all users can"
            " read it, such as in a virtual environment under /opt"
        ) from error
    with process, ending_with_us(process):
        return process.wait()
