"""`ltx gc`: take away what is old."""

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
"""Names of what was left."""


class Age(click.ParamType[int]):
    """`30d`, in seconds."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Raises click.BadParameter."""
        from ltx_client.farm.retention import parse_age

        try:
            return value if isinstance(value, int) else parse_age(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("gc", epilog="Example: ltx gc --older-than 30d --yes")
@click.option("--older-than", type=Age(), metavar="AGE", required=True, help="As 12h, 30d or 4w.")
@click.option("--dry-run", is_flag=True, help="Only say what would go, a name a line.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(older_than: int, dry_run: bool, yes: bool) -> None:
    """Removes the videos and records of jobs that ended longer ago than AGE, whoever submitted them.

    Pictures and clips that jobs were given go too, where none that stays needs them. What has not ended stays, and so
    does a video that is being downloaded. Ages are by the broker's clock, or, of files that no job is known of, by the
    storage's.
    """
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.retention import Removed, find_old
    from ltx_client.local.members import Use
    from ltx_client.shared.storage.store import Storage, StorageError

    with Farm.connect(use=Use.READ) as farm:
        try:
            storage = Storage(farm.storage_url) if farm.storage_url is not None else None
            if storage is None:
                notice("no storage is set, so only records are looked at; set LTX_STORAGE_URL as the workers do")
            now = farm.now()
            old = find_old(*farm.all_jobs(), storage, older_than, now)
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
            except BaseException:  # also Ctrl-C: whatever stops it, what has gone is said
                if removed.files or removed.jobs:
                    notice(f"removed {_counted(removed.files, removed.size, removed.jobs)} before it stopped")
                raise
        except StorageError as error:
            raise StorageUnreachable(f"{error}; what was not removed is at the next ltx gc") from None
    notice(f"removed {_counted(removed.files, removed.size, removed.jobs)}")
    if removed.kept:
        notice(f"left {len(removed.kept)} that are used again, or may be: {', '.join(removed.kept[:SHOWN])}")


def _ask(old: Old) -> None:
    counted = _counted(len(old.files), old.size, len(old.jobs))
    if not sys.stdin.isatty():
        raise UsageError(f"this would remove {counted}; say --yes where nobody can be asked, or --dry-run")
    click.confirm(f"Remove {counted}?", abort=True, err=True)


def _counted(files: int, size: int, jobs: int) -> str:
    return f"{files} files ({size / 1e6:,.1f} MB) and the records of {jobs} jobs"
