"""`ltx download`: fetch a finished video."""

from __future__ import annotations

from pathlib import Path

import click

from ltx_client.commands.render import output_path
from ltx_client.farm import Farm
from ltx_client.local.members import Use
from ltx_client.options import job_argument

__all__ = ["command"]


@click.command("download", epilog="Example: ltx download 3fa85f64a1b2 -o ball.mp4")
@job_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The MP4 to write.  [default: ltx-JOB.mp4 in this folder]"
)
def command(job: str, output: Path | None) -> None:
    """Fetches the MP4 of a finished job, checks it, and prints its path."""
    with Farm.connect(use=Use.READ) as farm:
        job_id = farm.find(job)
        target = output_path(output, job_id)
        farm.download(job_id, target)
    click.echo(target)
