"""What files are called that nobody gave a name: made from ids, never from what a person wrote."""

from __future__ import annotations

__all__ = ["BATCH_NAMES", "FIELDS", "default_name", "short_id"]

BATCH_NAMES = "{index:04}-{id}.mp4"
"""Of a batch's MP4s, as a template of `ltx_client.farm.outputs.templates`."""
SHEET = "contact-sheet.png"
"""A batch's contact sheet, beside its videos."""
FIELDS = ("prompt", "seed", "id", "variant", "width", "height", "frames", "fps", "steps", "index", "date", "time")
"""What such a template may ask for."""


def short_id(job_id: str) -> str:
    """The end of an id: enough to name the job to any command."""
    return job_id.rsplit("-", 1)[-1]


def default_name(job_id: str) -> str:
    """Of a job's MP4."""
    return f"ltx-{short_id(job_id)}.mp4"
