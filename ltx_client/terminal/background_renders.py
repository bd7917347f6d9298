"""Let this machine's own farm render in the background after a command has ended."""

from __future__ import annotations

from collections.abc import Iterable

from ltx_client.local.background import continue_in_background
from ltx_client.local.join import check_renders
from ltx_client.protocol.jobs import Job
from ltx_client.shared.settings import FarmSettings
from ltx_client.terminal.output import notice

__all__ = ["check_background", "render_in_background"]


def check_background(jobs: Iterable[Job]) -> None:
    """Check, before anything is queued, that this machine can render these jobs.

    Raises:
        ModelError: It cannot render a job's variant.
    """
    for variant in dict.fromkeys(job.variant for job in jobs):
        check_renders(variant)


def render_in_background(settings: FarmSettings, jobs: Iterable[Job]) -> None:
    """Let this machine's farm render the queued jobs after the command has ended."""
    variants = dict.fromkeys(job.variant for job in jobs)
    for variant in variants:
        continue_in_background(settings.home, variant)
    if variants:
        notice("this machine renders in the background; `ltx up --stop` stops that")
