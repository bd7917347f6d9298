"""Run `ltx gc`: remove old videos and records."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ltx_client.errors import StorageUnreachable, UsageError
from ltx_client.shared.console.stdio import notice, print_line

if TYPE_CHECKING:
    from ltx_client.farm.retention import Old

__all__ = ["command"]

SHOWN = 10
"""Names of kept files and jobs that are printed."""


class Age(click.ParamType[int]):
    """An age such as `30d`, in seconds."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the age in seconds. Raise click.BadParameter."""
        from ltx_client.farm.retention import parse_age

        try:
            return value if isinstance(value, int) else parse_age(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("gc", epilog="Example: ltx gc --older-than 30d --yes")
@click.option("--older-than", type=Age(), metavar="AGE", required=True, help="An age such as 12h, 30d or 4w.")
@click.option("--dry-run", is_flag=True, help="Only print what would be removed, one name a line.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def command(older_than: int, dry_run: bool, yes: bool) -> None:
    """Remove the videos and records of jobs that ended longer ago than AGE, whoever submitted them.

    Pictures and clips that jobs were given are removed too, unless a remaining job needs them. Jobs that have not ended
    are kept, and so is a video that is being downloaded. Ages are by the broker's clock, or, for files of unknown jobs,
    by the storage's.
    """
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.retention import Removed, find_old
    from ltx_client.local.members import Use
    from ltx_client.shared.storage.store import Storage, StorageError

    with Farm.connect(use=Use.READ) as farm:
        try:
            storage = Storage(farm.storage_url) if farm.storage_url is not None else None
            if storage is None:
                notice("no storage is set, so only records are considered; set LTX_STORAGE_URL as the workers do")
            now = farm.now()
            old = find_old(*farm.all_jobs(), storage, older_than, now)
            if old.inputs_kept_for:
                notice(
                    "old pictures and clips are kept, since this version cannot read which of them are needed by"
                    f" {_named(old.inputs_kept_for)}; ltx show says why"
                )
            if dry_run:
                for name in [*old.files, *(f"job {job_id}" for job_id in old.jobs)]:
                    print_line(name)
                notice(f"would remove {_counted(len(old.files), old.size, len(old.jobs))}")
                return
            if (old.files or old.jobs) and not yes:
                _ask(old)
            removed = Removed()
            try:
                for removed in farm.remove(old, storage):  # noqa: B007 - the last one counts
                    pass
            except BaseException:  # also Ctrl-C: whatever stops it, what was removed is said
                if removed.files or removed.jobs:
                    notice(f"removed {_counted(removed.files, removed.size, removed.jobs)} before it stopped")
                raise
        except StorageError as error:
            raise StorageUnreachable(f"{error}; run ltx gc again to remove the rest") from None
    notice(f"removed {_counted(removed.files, removed.size, removed.jobs)}")
    if removed.kept:
        notice(f"left {len(removed.kept)} that are or may be used again: {', '.join(removed.kept[:SHOWN])}")


def _ask(old: Old) -> None:
    counted = _counted(len(old.files), old.size, len(old.jobs))
    if not sys.stdin.isatty():
        raise UsageError(f"this would remove {counted}; use --yes to confirm, or --dry-run")
    click.confirm(f"Remove {counted}?", abort=True, err=True)


def _named(jobs: list[str]) -> str:
    more = f" and {len(jobs) - SHOWN} more" if len(jobs) > SHOWN else ""
    return ("job " if len(jobs) == 1 else "jobs ") + ", ".join(jobs[:SHOWN]) + more


def _counted(files: int, size: int, jobs: int) -> str:
    of_files, of_jobs = "file" if files == 1 else "files", "job" if jobs == 1 else "jobs"
    return f"{files} {of_files} ({size / 1e6:,.1f} MB) and the records of {jobs} {of_jobs}"
