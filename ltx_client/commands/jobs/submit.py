"""Run `ltx submit`: queue a job and return."""

from __future__ import annotations

from typing import Any

import click

from ltx_client.farm.outputs.names import short_id
from ltx_client.shared.console.stdio import notice, print_json, print_line
from ltx_client.terminal.arguments.options import (
    dry_run_option,
    job_from_options,
    json_option,
    link_options,
    video_options,
)

__all__ = ["command"]


@click.command("submit", epilog='Example: ltx submit "a green square falls on a grey background" --priority 2')
@video_options
@link_options
@dry_run_option
@json_option
def command(as_json: bool, dry_run: bool, after: tuple[str, ...], not_on: tuple[str, ...], **options: Any) -> None:
    """Queue PROMPT and print the job's id. With no broker set, this machine renders it in the background."""
    from ltx_client.farm.describe import describe_job
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.jobs.inputs import clip_parts
    from ltx_client.local.members import Use
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.terminal.background_renders import check_background, render_in_background
    from ltx_client.terminal.notices.dry_run import print_plan
    from ltx_client.terminal.notices.prompt_length import tell_of_cut_texts
    from ltx_client.terminal.notices.vocabulary import vocabulary_note
    from ltx_client.terminal.notices.wait_reasons import tell_of_pauses, tell_who_waits
    from ltx_models.memory import limits_of

    job, inputs = job_from_options(**options)
    parts = clip_parts(job.request, inputs, limits_of(job.variant))
    for part in parts:
        notice(str(part))
    settings = FarmSettings()
    if dry_run:
        print_plan(settings, [job], after, not_on)
        tell_of_cut_texts(job)
        return
    if settings.broker_url is None:
        check_background([job])
    with Farm.connect(settings, Use.READ) as farm:
        relations = farm.relations(after, not_on)
        farm.send(job, inputs, relations)
        if note := vocabulary_note(job.variant, job.request.prompt):
            notice(note)
        tell_of_cut_texts(job)
        if settings.broker_url is None:
            render_in_background(settings, [job])
            tell_of_pauses(farm, [job.variant])
        else:
            tell_who_waits(farm, [(job, relations)])
        if as_json:
            print_json(describe_job(farm.view(job.id), clips=parts), done=f"job {job.id} is queued")
        else:
            print_line(job.id, done=f"job {job.id} is queued")
    notice(f"ltx watch {short_id(job.id)} shows it, ltx download {short_id(job.id)} downloads the video")
