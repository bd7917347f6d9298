"""Every name in Redis that the farm uses, made in one place. Each docstring names the key's only writer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_NAMESPACE", "Names", "queue_name"]

DEFAULT_NAMESPACE = "ltx:"


def queue_name(variant: str, memory_gb: int) -> str:
    """The Celery queue of jobs of one variant that fit one memory class (without the namespace)."""
    return f"{variant}.{memory_gb}"


@dataclass(frozen=True)
class Names:
    """Key and channel names under a namespace."""

    namespace: str = DEFAULT_NAMESPACE

    def job(self, job_id: str) -> str:
        """Hash, written by the client: the job as submitted, and when."""
        return f"{self.namespace}job:{job_id}"

    def cancel(self, job_id: str) -> str:
        """String, and channel, written by the client: cancel was asked."""
        return f"{self.namespace}cancel:{job_id}"

    def state(self, job_id: str) -> str:
        """Hash, written by workers: status, attempt, token, sequence number, snapshot."""
        return f"{self.namespace}state:{job_id}"

    def events(self, job_id: str) -> str:
        """Stream, and channel, written by workers: every event, numbered from 1."""
        return f"{self.namespace}events:{job_id}"

    def preview(self, job_id: str) -> str:
        """String, written by workers: the newest checkpoint frame, a JPEG."""
        return f"{self.namespace}preview:{job_id}"

    def lease(self, job_id: str) -> str:
        """String, written by workers: the token of the attempt that owns the job, while it is alive."""
        return f"{self.namespace}lease:{job_id}"

    def latents(self, job_id: str) -> str:
        """String, written by workers: the newest resume point of a job that has not ended."""
        return f"{self.namespace}latents:{job_id}"

    def result(self, job_id: str) -> str:
        """Hash, written by workers: which files are the result."""
        return f"{self.namespace}result:{job_id}"

    def jobs(self) -> str:
        """Sorted set, written by the client: job ids by time of submission."""
        return f"{self.namespace}jobs"

    def reaper(self) -> str:
        """String, written by workers: which of them looks after the queue at the moment."""
        return f"{self.namespace}reaper"

    def worker(self, worker_id: str) -> str:
        """Hash, written by that worker: what it is and does. Expires when the worker is gone."""
        return f"{self.namespace}worker:{worker_id}"
