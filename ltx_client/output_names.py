"""What files are called that nobody gave a name: made from ids, never from what a person wrote."""

from __future__ import annotations

__all__ = ["default_name", "short_id"]


def short_id(job_id: str) -> str:
    """The end of an id: enough to name the job to any command."""
    return job_id.rsplit("-", 1)[-1]


def default_name(job_id: str) -> str:
    """Of a job's MP4."""
    return f"ltx-{short_id(job_id)}.mp4"
