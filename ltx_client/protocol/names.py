"""Every name in Redis that the farm uses, made in one place. Each docstring names the key's only writer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_NAMESPACE", "Names", "is_later", "later_queue", "queue_name"]

DEFAULT_NAMESPACE = "ltx:"


def queue_name(variant: str, memory_gb: int) -> str:
    """The Celery queue of jobs of one variant that fit one memory class (without the namespace)."""
    return f"{variant}.{memory_gb}"


LATER = ".later"


def later_queue(queue: str) -> str:
    """The Celery queue of those who have a job waiting in `queue` already: served when all first queues are empty."""
    return queue + LATER


def is_later(queue: str) -> bool:
    """Whether `later_queue` made this name."""
    return queue.endswith(LATER)


@dataclass(frozen=True)
class Names:
    """Key and channel names under a namespace."""

    namespace: str = DEFAULT_NAMESPACE

    def job(self, job_id: str) -> str:
        """Hash, written by the client: the job as submitted (spec), when, its links to other jobs, and what was wished
        since: another priority; held while it is paused.
        """
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

    def embedding(self, digest: str) -> str:
        """String, written by workers: a text's embedding for the whole farm; `digest` is of text and encoder."""
        return f"{self.namespace}embeds:{digest}"

    def embeddings(self) -> str:
        """Sorted set, written by workers: the digests of all embeddings by their last use."""
        return f"{self.namespace}embeds"

    def jobs(self) -> str:
        """Sorted set, written by the client: job ids by time of submission."""
        return f"{self.namespace}jobs"

    def batches(self) -> str:
        """Sorted set, written by the client: batch ids by time of submission."""
        return f"{self.namespace}batches"

    def batch(self, batch_id: str) -> str:
        """Hash, written by the client: what a batch is called, whose it is, and when it was submitted."""
        return f"{self.namespace}batch:{batch_id}"

    def batch_jobs(self, batch_id: str) -> str:
        """Sorted set, written by the client: the ids of a batch's jobs, those that stand in for others too, by item."""
        return f"{self.namespace}batch:{batch_id}:jobs"

    def waiting(self, queue: str, priority: int, submitter: str) -> str:
        """List, written by the client: a submitter's jobs of one priority in one queue, the oldest that waits first."""
        return f"{self.namespace}waiting:{queue}:{priority}:{submitter}"

    def paused(self) -> str:
        """Hash, written by an operator's client: which workers and queues are paused, by whom and since when. Its
        fields are `worker_field` and `queue_field` of `ltx_client.protocol.pauses`.
        """
        return f"{self.namespace}paused"

    def reaper(self) -> str:
        """String, written by workers: which of them looks after the queue at the moment."""
        return f"{self.namespace}reaper"

    def dead(self) -> str:
        """List, written by workers: the last queue items that were no messages, newest first."""
        return f"{self.namespace}dead"

    def workers(self) -> str:
        """Sorted set, written by workers: their ids, by when they were last seen."""
        return f"{self.namespace}workers"

    def worker(self, worker_id: str) -> str:
        """Hash, written by that worker: what it is and does. Expires when the worker is gone."""
        return f"{self.namespace}worker:{worker_id}"
