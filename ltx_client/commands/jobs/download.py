"""Run `ltx download`: download finished videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ltx_client.errors import UsageError
from ltx_client.farm.outputs.names import SHEET
from ltx_client.farm.outputs.paths import is_stdout
from ltx_client.shared.console.stdio import print_line
from ltx_client.terminal.arguments.completion import complete_batches, complete_jobs
from ltx_client.terminal.arguments.options import FIELDS_HELP, OutputPath

if TYPE_CHECKING:
    from ltx_client.farm.outputs.naming import BatchOutput

__all__ = ["command"]


@click.command("download", epilog="Example: ltx download 3fa85f64a1b2 -o ball.mp4")
@click.argument("job", metavar="[JOB]", required=False, shell_complete=complete_jobs)
@click.option(
    "--batch",
    metavar="ID",
    shell_complete=complete_batches,
    help="All finished videos of that batch (see ltx batches), into a folder.",
)
@click.option(
    "-o",
    "--output",
    type=OutputPath(),
    help=f"The MP4 to write, or its folder, or a batch's; - is standard output. {FIELDS_HELP}"
    "  [default: ltx-JOB.mp4, or ltx-BATCH, in this folder]",
)
@click.option("--sheet", is_flag=True, help=f"Draw a batch's {SHEET} too: a frame of each video.")
def command(job: str | None, batch: str | None, output: str | None, sheet: bool) -> None:
    """Download the MP4 of a finished job, check it, and print its path.

    Of a batch, download all that are done and not in the folder already, and write index.json, which describes each
    (index-BATCH.json if there is an index.json of something else).
    """
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.outputs.naming import BatchOutput, VideoOutput
    from ltx_client.local.members import Use
    from ltx_client.terminal.downloading import fetch

    if (job is None) == (batch is None):
        raise UsageError("name one JOB (see ltx jobs), or a batch with --batch")
    if sheet and batch is None:
        raise UsageError("--sheet draws the videos of a batch; name one with --batch")
    if batch is not None:
        _download_batch(batch, None if output is None else BatchOutput.parse(output), sheet=sheet)
        return
    assert job is not None
    wanted = VideoOutput(output)
    with Farm.connect(use=Use.READ) as farm:
        view = farm.view(farm.find(job))
        target = wanted.path(view.job, view.submitted_at, view.relations.item)
        fetch(farm, view.job.id, target)
    if not is_stdout(target):
        print_line(target, done=f"the video is {target}")


def _download_batch(name: str, output: BatchOutput | None, *, sheet: bool) -> None:
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.outputs.naming import BatchOutput
    from ltx_client.local.members import Use
    from ltx_client.terminal.downloading import download_batch

    with Farm.connect(use=Use.READ) as farm:
        batch = farm.batch(name)
        download_batch(farm, batch, output or BatchOutput.default(batch.id), sheet=sheet)
