"""Turn a request into a job: validate it, fill in its defaults, and choose its memory class."""

from __future__ import annotations

import getpass
import socket
from typing import NamedTuple

from pydantic import ValidationError

from ltx_client.errors import UsageError
from ltx_client.farm.jobs.inputs import Inputs, address_inputs
from ltx_client.protocol.fair_turns import DEFAULT_PRIORITY
from ltx_client.protocol.jobs import Job, new_job_id
from ltx_client.protocol.text import printable
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant
from ltx_models.memory import check_fits, memory_class, predict_peak
from ltx_models.request import GenerationRequest

__all__ = ["Prepared", "prepare", "submitter"]


class Prepared(NamedTuple):
    """A job that can be sent, and the local files that it needs."""

    job: Job
    inputs: Inputs


def prepare(
    request: GenerationRequest,
    *,
    variant: str = DEFAULT_VARIANT,
    priority: int = DEFAULT_PRIORITY,
    checkpoint_every: int = 3,
    time_limit: float | None = None,
    job_id: str | None = None,
) -> Prepared:
    """Return the job for a request. Needs no farm; reads the files that the request names.

    Raises:
        UsageError: A file or an option is invalid.
        UnknownVariant: There is no such variant.
        InvalidRequest: The render needs more memory than the variant's largest class, or breaks one of its limits.
    """
    row = find_variant(variant)
    resolved = request.resolve(row)
    check_fits(row, resolved)
    peak = predict_peak(row, resolved)
    memory_class(peak)
    addressed, inputs = address_inputs(resolved, row.family.limits)
    try:
        job = Job(
            id=job_id or new_job_id(),
            variant=row.name,
            request=addressed,
            priority=priority,
            checkpoint_every=checkpoint_every,
            predicted_peak=peak,
            time_limit=time_limit,
            submitter=submitter(),
        )
        return Prepared(job, inputs)
    except ValidationError as error:
        detail = error.errors()[0]
        field = ".".join(str(part) for part in detail["loc"])
        raise UsageError(f"{field} {detail['input']!r} is invalid: {detail['msg']}") from None


def submitter() -> str:
    """Return who submits a job, as USER@HOST."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = "unknown"
    return printable(f"{user}@{socket.gethostname()}"[:200])
