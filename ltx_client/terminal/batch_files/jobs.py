"""From a batch's file to its jobs: every line checked, before anything is sent."""

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
from ltx_client.protocol.jobs import Job, JobId, Links
from ltx_client.protocol.text import is_printable
from ltx_client.terminal.arguments.options import job_from_options
from ltx_client.terminal.batch_files import Line, LineError, Remarks, read_batch
from ltx_models.errors import ModelError
from ltx_models.files.urls import is_url

__all__ = ["BadLines", "prepare_batch"]

MAX_JOBS = 10_000
MAX_PROBLEMS = 1_000
"""Of a file, after which no more of it is read."""
_job_id: TypeAdapter[str] = TypeAdapter(JobId)


class BadLines(UsageError):
    """Lines of a batch's file that cannot be right: `problems`, in order, each with its line's number."""

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
    """The batch that a file means: a job for each line and seed. Needs no farm.

    options: stand in for what a line does not say.  seeds: for the lines that name none; without any, each line has
    one of its own, which the batch's id decides. A picture's name is relative to the file's folder.
    remark: is told, in a sentence each, what was read in a way that may not have been meant.
    Raises BadLines with everything that is wrong, or UsageError.
    """
    try:
        _job_id.validate_python(batch_id)
    except ValidationError:
        raise UsageError(
            f"the id {batch_id[:80]!r} cannot be: letters, digits and hyphens are allowed, 64 at most"
        ) from None
    if not is_printable(name):
        raise UsageError(
            f"the name of the file {name} has control characters in it; a batch is known by it, so rename it"
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
        raise UsageError(f"{name} asks for no videos: it has no lines but empty ones and comments")
    return prepared


def _jobs_of(
    line: Line, batch_id: str, seeds: list[int], options: dict[str, Any], folder: Path, before: int
) -> tuple[list[tuple[Job, Links]], Inputs]:
    if isinstance(line.values, LineError):
        raise line.values
    values = {**options, **line.values}
    for name in ("images", "videos"):
        if name in line.values:
            values[name] = tuple(path if is_url(path) else str(folder / path) for path in line.values[name])
    if "frames" in line.values or "seconds" in line.values:  # of the two, the line's own goes over the options'
        values |= {name: line.values.get(name) for name in ("frames", "seconds")}
    own, seed = values.pop("seeds", None), values.pop("seed", None)
    if own and seed is not None:
        raise LineError("seed and seeds were both given; give one of the two")
    chosen = own or ([seed] if seed is not None else seeds) or [_drawn(batch_id, before)]
    first, inputs = job_from_options(**values, seed=chosen[0], job_id=derived_id(batch_id, before + 1))
    jobs = []
    for item, each in enumerate(chosen, before + 1):
        request = dataclasses.replace(first.request, seed=each)
        job = first.model_copy(update={"id": derived_id(batch_id, item), "request": request})
        jobs.append((job, Links(batch=batch_id, item=item)))
    return jobs, inputs


def _drawn(batch_id: str, before: int) -> int:
    """A seed as good as any, and the same when the same batch is sent again."""
    return int.from_bytes(hashlib.sha256(f"{batch_id}/{before}".encode()).digest()[:4])
