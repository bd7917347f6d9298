"""Turn a batch's file into its jobs: every line is checked before anything is sent."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ltx_client.errors import UsageError
from ltx_client.farm.batches import PreparedBatch, derived_id
from ltx_client.farm.jobs.inputs import Inputs
from ltx_client.protocol.jobs import Job, JobId, Relations
from ltx_client.protocol.text import is_printable
from ltx_client.terminal.arguments.options import job_from_options
from ltx_client.terminal.batch_files import Line, LineError, Remarks, read_batch
from ltx_models.errors import ModelError
from ltx_models.files.urls import is_url

__all__ = ["BadLines", "prepare_batch"]

MAX_JOBS = 10_000
MAX_PROBLEMS = 1_000
"""Wrong lines after which no more of a file is read."""
_job_id: TypeAdapter[str] = TypeAdapter(JobId)


class BadLines(UsageError):
    """Lines of a batch's file are invalid.

    Attributes:
        problems: Line numbers and sentences, in order.
    """

    def __init__(self, name: str, problems: list[tuple[int, str]], lines: int) -> None:
        self.problems = problems
        are = "line is" if len(problems) == 1 else "lines are"
        first = "the first " if len(problems) >= MAX_PROBLEMS else ""
        super().__init__(f"{len(problems):,} {are} wrong, of {first}{lines:,} in {name}; nothing was queued")


def prepare_batch(
    data: bytes,
    name: str,
    batch_id: str,
    *,
    form: str | None,
    seeds: Sequence[int],
    options: dict[str, Any],
    remark: Callable[[str], object] = lambda _: None,
) -> PreparedBatch:
    """Return the batch that a file describes: a job for each line and seed. Needs no farm.

    Args:
        data: The file's content.
        name: Its name; names of pictures in it are relative to its folder.
        batch_id: The batch's id, which decides the seed of each line without one.
        form: The file's format; None to recognize it.
        seeds: Seeds for the lines that name none; if empty, each line has one of its own.
        options: Values for lines that do not give them.
        remark: Receives a sentence for each thing that may have been read in another way than it was meant.

    Raises:
        BadLines: Lines are invalid; the error names all of them.
        UsageError: The file as a whole is invalid.
    """
    try:
        _job_id.validate_python(batch_id)
    except ValidationError:
        raise UsageError(f"the id {batch_id[:80]!r} is invalid; use letters, digits and hyphens, 64 at most") from None
    if not is_printable(name):
        raise UsageError(
            f"the name of the file {name} has control characters in it; the batch is named after it, so rename it"
        )
    prepared = PreparedBatch(batch_id, name, [])
    problems, count = [], 0
    remarks = Remarks()
    for line in read_batch(data, name, form, remarks):
        count += 1
        try:
            jobs, inputs = _jobs_of(line, batch_id, list(seeds), options, Path(name).parent, len(prepared.jobs))
        except (LineError, UsageError, ModelError) as error:
            problems.append((line.number, str(error)))
            if len(problems) >= MAX_PROBLEMS:
                break
            continue
        prepared.jobs += jobs
        prepared.inputs |= inputs
        prepared.lines.append((line.number, jobs[0][0]))
        if len(prepared.jobs) > MAX_JOBS:
            raise UsageError(f"{name} asks for more than {MAX_JOBS:,} videos, by line {line.number}; divide it")
    for sentence in remarks.sentences():
        remark(sentence)
    if problems:
        raise BadLines(name, problems, count)
    if not prepared.jobs:
        raise UsageError(f"{name} asks for no videos: it has only empty lines and comments")
    return prepared


def _jobs_of(
    line: Line, batch_id: str, seeds: list[int], options: dict[str, Any], folder: Path, before: int
) -> tuple[list[tuple[Job, Relations]], Inputs]:
    if isinstance(line.values, LineError):
        raise line.values
    values = {**options, **line.values}
    for name in ("images", "videos"):
        if name in line.values:
            values[name] = tuple(path if is_url(path) else str(folder / path) for path in line.values[name])
    if "frames" in line.values or "seconds" in line.values:  # the line's own overrides the options'
        values |= {name: line.values.get(name) for name in ("frames", "seconds")}
    own, seed = values.pop("seeds", None), values.pop("seed", None)
    if own and seed is not None:
        raise LineError("seed and seeds were both given; use one of the two")
    chosen = own or ([seed] if seed is not None else seeds) or [_drawn(batch_id, before)]
    first, inputs = job_from_options(**values, seed=chosen[0], job_id=derived_id(batch_id, before + 1))
    jobs = []
    for item, each in enumerate(chosen, before + 1):
        request = dataclasses.replace(first.request, seed=each)
        job = first.model_copy(update={"id": derived_id(batch_id, item), "request": request})
        jobs.append((job, Relations(batch=batch_id, item=item)))
    return jobs, inputs


def _drawn(batch_id: str, before: int) -> int:
    """Return a seed that is the same whenever the same batch is sent again."""
    return int.from_bytes(hashlib.sha256(f"{batch_id}/{before}".encode()).digest()[:4])
