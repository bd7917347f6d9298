"""`ltx batch`: queue many jobs from a file."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import click

from ltx_client.batch_files import FORMATS, parse_seeds
from ltx_client.batch_jobs import BadLines, prepare_batch
from ltx_client.batches import PreparedBatch, derived_id
from ltx_client.commands.download import download_batch
from ltx_client.commands.ending import Ending
from ltx_client.commands.submit import check_background, render_in_background
from ltx_client.commands.watch import follow
from ltx_client.dry_run import print_plan
from ltx_client.errors import UsageError
from ltx_client.farm import Farm
from ltx_client.local.members import Use
from ltx_client.options import describing_options, dry_run_option, link_options, notify_options
from ltx_client.output import notice, print_line, short_id
from ltx_client.prompt_length import cut_texts
from ltx_client.protocol.jobs import Links, new_job_id
from ltx_client.protocol.settings import FarmSettings
from ltx_client.waiting import tell_of_pauses, tell_who_waits

__all__ = ["command"]


LINES_TOLD = 20
"""Of a file, whose prompts are too long."""


class Seeds(click.ParamType[list[int]]):
    """`1-8` or `1,5,40-42`."""

    name = "SEEDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Raises click.BadParameter."""
        try:
            return value if isinstance(value, list) else parse_seeds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("batch", epilog="Example: ltx batch prompts.txt --seeds 1-2 --steps 4")
@click.argument("file", metavar="FILE")
@click.option("--seeds", type=Seeds(), metavar="SEEDS", help="Each line once with each: 1-8, or 1,5,40-42.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="What FILE is.  [default: as it is called]")
@describing_options
@click.option(
    "--then", multiple=True, metavar="FILE", help="Another batch, which begins when this has ended.  [repeat]"
)
@link_options
@dry_run_option
@click.option("--id", "batch_id", help="The batch's id; the same again submits nothing twice.  [default: a UUID]")
@notify_options
@click.option("--wait", is_flag=True, help="Show the jobs until all have ended; --notify and --desktop wait too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Wait, then download all into this folder.")
def command(
    file: str,
    seeds: list[int] | None,
    form: str | None,
    then: tuple[str, ...],
    after: tuple[str, ...],
    not_on: tuple[str, ...],
    dry_run: bool,
    batch_id: str | None,
    notify: str | None,
    desktop: bool | None,
    wait: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Queues a video for each line of FILE (- is standard input) and seed, and prints the batch's id.

    FILE has a prompt a line; or is CSV with a column `prompt`; or has a JSON object a line (.jsonl). CSV and JSON may
    say more of each video, under the names of the options: width, negative_prompt, variant, priority, seed, seeds …
    The options here stand in for what a line does not say. Everything is checked first: when a line is wrong, all wrong
    ones are reported, and nothing is queued.
    """
    batch_id = batch_id or new_job_id()
    ending = Ending(notify, desktop)
    wait = wait or output is not None or notify is not None or bool(desktop)
    batches = _prepare([file, *then], batch_id, form, seeds or [], options)
    settings = FarmSettings()
    jobs = [job for batch in batches for job, _ in batch.jobs]
    if dry_run:
        print_plan(settings, jobs)
        for batch in batches:
            _tell_of_cut_texts(batch)
        return
    if settings.broker_url is None:
        check_background(jobs)
    with Farm.connect(settings, Use.READ) as farm:
        links = farm.links(after, not_on)
        batches[0].link(links)
        for batch in batches[1:]:
            batch.link(Links(not_on=links.not_on))
        told: set[str] = set()
        for batch in batches:
            farm.send_batch(batch)
            notice(f"batch {batch.id}: {len(batch.jobs)} videos of {batch.name}")
            told |= _tell_of_cut_texts(batch)
        if settings.broker_url is None:
            render_in_background(settings, jobs)
            tell_of_pauses(farm, (job.variant for job in jobs))
        else:
            tell_who_waits(farm, [pair for batch in batches for pair in batch.jobs])
        if wait:
            follow(farm, [job.id for job in jobs], told)
            ending.tell([view for batch in batches for view in farm.batch(batch.id).views])
        if output is not None:
            for batch in batches:
                folder = output if batch is batches[0] else output / short_id(batch.id)
                download_batch(farm, farm.batch(batch.id), folder)
    for batch in batches:
        print_line(batch.id, done=f"batch {batch.id} is queued")
    if not wait:
        name = short_id(batch_id)
        notice(f"ltx watch --batch {name} shows it, ltx download --batch {name} -o FOLDER fetches the videos")


def _tell_of_cut_texts(batch: PreparedBatch) -> set[str]:
    """Say of which lines the prompts are longer than what is read of them; return the ids of all jobs of these."""
    cut = {number: texts for number, job in batch.lines.items() if (texts := cut_texts(job))}
    for number in list(cut)[:LINES_TOLD]:
        for text in cut[number]:
            notice(f"{batch.name}, line {number}: {text.sentence}")
    if len(cut) > LINES_TOLD:
        notice(f"{batch.name}: {len(cut) - LINES_TOLD} more lines have prompts that are read in part only")
    prompts = {batch.lines[number].request.prompt for number in cut}
    return {job.id for job, _ in batch.jobs if job.request.prompt in prompts}


def _prepare(
    files: list[str], batch_id: str, form: str | None, seeds: list[int], options: dict[str, Any]
) -> list[PreparedBatch]:
    """All batches, each of which waits for the one before. Raises UsageError when anything is wrong in any."""
    batches: list[PreparedBatch] = []
    failures: list[BadLines] = []
    for number, file in enumerate(files):
        this_id = batch_id if number == 0 else derived_id(batch_id, "then", number)
        data, name = _read(file)
        try:
            batches.append(prepare_batch(data, name, this_id, form=form, seeds=seeds, options=options))
        except BadLines as error:
            for line, problem in error.problems:
                notice(f"{name}, line {line}: {problem}")
            failures.append(error)
    if failures:
        raise UsageError("; ".join(map(str, failures)))
    for before, batch in itertools.pairwise(batches):
        batch.link(Links(after_batches=(before.id,)))
    return batches


def _read(file: str) -> tuple[bytes, str]:
    if file == "-":
        return sys.stdin.buffer.read(), "standard input"
    try:
        return Path(file).read_bytes(), file
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
