"""`ltx submit`: queue a job and return."""

from __future__ import annotations

from typing import Any

import click

from ltx_client.farm import Farm
from ltx_client.local.background import continue_in_background
from ltx_client.local.members import Use
from ltx_client.options import job_from_options, json_option, video_options
from ltx_client.output import describe_job, notice, print_json, short_id
from ltx_client.protocol.settings import FarmSettings
from ltx_models.model_files import find_files
from ltx_models.variants import find_variant

__all__ = ["command"]


@click.command("submit", epilog='Example: ltx submit "a green square falls on a grey background" --priority 2')
@video_options
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Queues PROMPT and prints the job's id. With no broker set, this machine renders it in the background."""
    job, inputs = job_from_options(**options)
    settings = FarmSettings()
    if settings.broker_url is None:
        find_files(find_variant(job.variant))  # before anything is queued that this machine cannot render
    with Farm.connect(settings, Use.READ) as farm:
        farm.send(job, inputs)
        if settings.broker_url is None:
            continue_in_background(settings.home, job.variant)
            notice("this machine renders it in the background; `ltx up --stop` stops that")
        elif not farm.served(job):
            notice(f"warning: no live worker serves {job.queue}; the job waits for one (see ltx workers)")
        if as_json:
            print_json(describe_job(farm.view(job.id)))
        else:
            click.echo(job.id)
    notice(f"ltx watch {short_id(job.id)} shows it, ltx download {short_id(job.id)} fetches the video")
