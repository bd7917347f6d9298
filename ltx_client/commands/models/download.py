"""Run `ltx models download`: download a variant's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from ltx_client.errors import Unreachable
from ltx_client.shared.console.stdio import notice, print_line
from ltx_client.terminal.arguments.completion import complete_variants
from ltx_models.errors import HubUnreachable
from ltx_models.families.variants import find_variant
from ltx_models.files.model_files import find_files
from ltx_models.memory import GB

__all__ = ["command"]

PLAIN_STEPS = 20
"""How many lines report a download without a terminal."""


@click.command("download", epilog="Example: ltx models download distilled-fp8")
@click.argument("variant", shell_complete=complete_variants)
def command(variant: str) -> None:
    """Download the files of VARIANT that are missing, and print where they are.

    An interrupted download continues where it stopped. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they
    mean to the Hugging Face hub; LTX_MODELS_DIR names a folder to store the files in instead of its cache.
    """
    from ltx_models.files.hub import download

    row = find_variant(variant)
    with _progress() as progress:
        try:
            download(row, progress, notice)
        except HubUnreachable as error:
            raise Unreachable(str(error)) from None
    for path in find_files(row).values():
        print_line(path, done="what was downloaded is kept")


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function that reports progress: one bar for all files, or some lines if stderr is not a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from ltx_client.shared.console.rich_console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainProgress()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=None, visible=False)

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name.rsplit("/", 1)[-1], visible=True)

        yield show


class _PlainProgress:
    def __init__(self) -> None:
        self._shown = 0

    def __call__(self, done: int, total: int, name: str) -> None:
        step = done * PLAIN_STEPS // max(total, 1)
        if step > self._shown:
            self._shown = step
            notice(f"{done / GB:.2f} of {total / GB:.2f} GB: {name}")
