"""Run `ltx batch`: queue many jobs from a file."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltx_client.errors import INTERRUPTED, JobFailed, UsageError
from ltx_client.farm.outputs.names import short_id
from ltx_client.shared.console.stdio import notice, print_line
from ltx_client.terminal.arguments.options import (
    FIELDS_HELP,
    OutputPath,
    describing_options,
    dry_run_option,
    link_options,
    notify_options,
)

if TYPE_CHECKING:
    from ltx_client.farm.batches import PreparedBatch
    from ltx_client.farm.outputs.naming import BatchOutput
    from ltx_client.terminal.batch_files.jobs import BadLines

__all__ = ["command"]


FORMATS = ("jsonl", "json", "csv", "tsv", "text")
LINES_TOLD = 20
"""Lines of a file that are named because their prompts are too long."""


class Seeds(click.ParamType[list[int]]):
    """A list of seeds: `1-8` or `1,5,40-42`."""

    name = "SEEDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return the seeds. Raise click.BadParameter."""
        from ltx_client.terminal.batch_files import parse_seeds

        try:
            return value if isinstance(value, list) else parse_seeds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("batch", epilog="Example: ltx batch prompts.txt --seeds 1-2 --steps 4")
@click.argument("file", metavar="FILE")
@click.option(
    "--seeds", type=Seeds(), metavar="SEEDS", help="Render each line with each of these seeds: 1-8, or 1,5,40-42."
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="The format of FILE.  [default: by content and name]"
)
@describing_options
@click.option(
    "--then",
    multiple=True,
    metavar="FILE",
    help="A file with another batch, which begins when this one has ended.  [repeat]",
)
@link_options
@dry_run_option
@click.option("--id", "batch_id", help="The batch's id; submitting it again queues nothing twice.  [default: a UUID]")
@notify_options
@click.option("--wait", is_flag=True, help="Show the jobs until all have ended; --notify and --desktop wait too.")
@click.option("-o", "--output", type=OutputPath(), help=f"Wait, then download all into this folder. {FIELDS_HELP}")
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
    output: str | None,
    **options: Any,
) -> None:
    """Queue a video for each line of FILE (- is standard input) and seed, and print the batch's id.

    FILE has a prompt a line, # before a comment; or is a table whose first line names its columns, one of them prompt
    (CSV or TSV); or JSON: an object a line, or an array. Tables and JSON may give more values for each video, under the
    names of the options: width, negative_prompt, variant, priority, seed, seeds … The options here apply to lines that
    do not give the value. Columns for people (notes, title, scene, id …, or any whose name begins with _ or #) are
    ignored with a message; any other unknown name is refused. Everything is checked first: if a line is wrong, all
    wrong ones are reported, and nothing is queued.
    """
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.outputs.naming import BatchOutput
    from ltx_client.local.members import Use
    from ltx_client.protocol.jobs import Relations, new_job_id
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.terminal.background_renders import check_background, render_in_background
    from ltx_client.terminal.downloading import download_batch
    from ltx_client.terminal.end_notifications import EndNotifications
    from ltx_client.terminal.notices.dry_run import print_plan
    from ltx_client.terminal.notices.wait_reasons import tell_of_pauses, tell_who_waits
    from ltx_client.terminal.watching.following import follow

    batch_id = batch_id or new_job_id()
    ending = EndNotifications(notify, desktop)
    wait = wait or output is not None or notify is not None or bool(desktop)
    folder = None if output is None else BatchOutput.parse(output)
    batches = _prepare([file, *then], batch_id, form, seeds or [], options)
    outputs = {} if folder is None else _outputs(batches, folder)
    settings = FarmSettings()
    jobs = [job for batch in batches for job, _ in batch.jobs]
    for sentence in clip_sentences(batches):
        notice(sentence)
    if dry_run:
        print_plan(settings, jobs, after, not_on)
        for batch in batches:
            _tell_of_cut_texts(batch)
        return
    if settings.broker_url is None:
        check_background(jobs)
    with Farm.connect(settings, Use.READ) as farm:
        relations = farm.relations(after, not_on)
        batches[0].relate(relations)
        for batch in batches[1:]:
            batch.relate(Relations(not_on=relations.not_on))
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
        interrupted = False
        failures: list[str] = []
        try:
            if wait:
                follow(farm, [job.id for job in jobs], told)
                ending.tell([view for batch in batches for view in farm.batch(batch.id).views])
            for one, output_of_it in outputs.items():
                try:
                    download_batch(farm, farm.batch(one), output_of_it)
                except JobFailed as error:  # of one batch; the others are downloaded all the same
                    failures.append(str(error))
        except KeyboardInterrupt:
            interrupted = True
            notice("")
            notice("stopped waiting; the queued jobs continue")
    for batch in batches:
        print_line(batch.id, done=f"batch {batch.id} is queued")
    if interrupted or not wait:
        name = short_id(batch_id)
        notice(f"ltx watch --batch {name} shows it, ltx download --batch {name} -o FOLDER downloads the videos")
    if interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    if failures:
        raise JobFailed("; ".join(failures))


def _tell_of_cut_texts(batch: PreparedBatch) -> set[str]:
    """Say which lines have prompts of which only a part is read; return the ids of all jobs of these lines."""
    from ltx_client.terminal.notices.prompt_length import cut_texts

    cut = [(number, job, texts) for number, job in batch.lines if (texts := cut_texts(job))]
    for number, _, texts in cut[:LINES_TOLD]:
        for text in texts:
            notice(f"{batch.name}, line {number}: {text.sentence}")
    if len(cut) > LINES_TOLD:
        notice(f"{batch.name}: {len(cut) - LINES_TOLD} more lines have prompts of which only a part is read")
    prompts = {job.request.prompt for _, job, _ in cut}
    return {job.id for job, _ in batch.jobs if job.request.prompt in prompts}


def _outputs(batches: list[PreparedBatch], first: BatchOutput) -> dict[str, BatchOutput]:
    """Return where each batch's videos go: the first batch's into the folder itself, the others' into folders in it.

    Raises:
        UsageError: One of them is invalid.
    """
    outputs = {
        batch.id: first if batch is batches[0] else dataclasses.replace(first, folder=first.folder / short_id(batch.id))
        for batch in batches
    }
    for batch in batches:
        outputs[batch.id].paths((job, time.time(), relations.item or 0) for job, relations in batch.jobs)
    return outputs


def _prepare(
    files: list[str], batch_id: str, form: str | None, seeds: list[int], options: dict[str, Any]
) -> list[PreparedBatch]:
    """Return all batches, each of which depends on the one before. Raise UsageError if anything is wrong in any."""
    from ltx_client.farm.batches import derived_id
    from ltx_client.protocol.jobs import Relations
    from ltx_client.terminal.batch_files.jobs import BadLines, prepare_batch

    batches: list[PreparedBatch] = []
    failures: list[BadLines] = []
    for number, file in enumerate(files):
        this_id = batch_id if number == 0 else derived_id(batch_id, "then", number)
        data, name = _read(file)
        remark = functools.partial(_remark, name)
        try:
            batches.append(prepare_batch(data, name, this_id, form=form, seeds=seeds, options=options, remark=remark))
        except BadLines as error:
            for line, problem in error.problems:
                notice(f"{name}, line {line}: {problem}")
            failures.append(error)
    if failures:
        raise UsageError("; ".join(map(str, failures)))
    for before, batch in itertools.pairwise(batches):
        batch.relate(Relations(after_batches=(before.id,)))
    return batches


def clip_sentences(batches: list[PreparedBatch]) -> list[str]:
    """Return a sentence on what is read of each of the batches' clips, each sentence once."""
    from ltx_client.farm.jobs.inputs import clip_parts
    from ltx_models.memory import limits_of

    parts = (
        part
        for batch in batches
        for job, _ in batch.jobs
        for part in clip_parts(job.request, batch.inputs, limits_of(job.variant))
    )
    return list(dict.fromkeys(map(str, parts)))


def _remark(name: str, sentence: str) -> None:
    notice(f"warning: {name}: {sentence}")


def _read(file: str) -> tuple[bytes, str]:
    """Return the beginning of a file, which is longer than a batch's may be if it is not all of it."""
    from ltx_client.terminal.batch_files import MAX_BYTES

    if file == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed; use a file's name")
        return sys.stdin.buffer.read(MAX_BYTES + 1), "standard input"
    try:
        with Path(file).open("rb") as opened:
            return opened.read(MAX_BYTES + 1), file
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except ValueError:
        raise UsageError("a file's name has a NUL character; remove it") from None
