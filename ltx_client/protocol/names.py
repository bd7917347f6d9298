"""Build every name in Redis that the farm uses. Each docstring gives the value's kind, its writer and its content."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_NAMESPACE", "Names", "queue_name"]

DEFAULT_NAMESPACE = "ltx:"


def queue_name(variant: str, memory_gb: int) -> str:
    """Return the Celery queue of one variant's jobs that fit one memory class, without the namespace."""
    return f"{variant}.{memory_gb}"


@dataclass(frozen=True)
class Names:
    """Names of keys and channels under a namespace."""

    namespace: str = DEFAULT_NAMESPACE

    def job(self, job_id: str) -> str:
        """Hash, written by the client: the job as submitted (spec), when, its links, and changes asked for since.

        Further fields are the workers that must not render it, its new priority, and `held` while it is paused.
        """
        return f"{self.namespace}job:{job_id}"

    def cancel(self, job_id: str) -> str:
        """String, and channel, written by the client: that the job is to be cancelled."""
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
        """String, written by workers: the token of the running attempt. Expires unless it is renewed."""
        return f"{self.namespace}lease:{job_id}"

    def latents(self, job_id: str) -> str:
        """String, written by workers: the newest resume point of a job that has not ended."""
        return f"{self.namespace}latents:{job_id}"

    def result(self, job_id: str) -> str:
        """Hash, written by workers: which files are the result."""
        return f"{self.namespace}result:{job_id}"

    def besides_job(self, job_id: str) -> list[str]:
        """Return all keys that belong to a job's id, except the job's own record."""
        kinds = (self.cancel, self.state, self.events, self.preview, self.lease, self.latents, self.result)
        return [kind(job_id) for kind in kinds]

    def input(self, sha256: str) -> str:
        """String, written by the client: that an input with this SHA-256 is wanted, or is being removed. Expires."""
        return f"{self.namespace}input:{sha256}"

    def readers(self, job_id: str) -> str:
        """Hash, written by the client: the running downloads of a job's video. Expires."""
        return f"{self.namespace}readers:{job_id}"

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
        """Hash, written by the client: a batch's name, its submitter and its time of submission."""
        return f"{self.namespace}batch:{batch_id}"

    def batch_jobs(self, batch_id: str) -> str:
        """Sorted set, written by the client: the ids of a batch's jobs, including retries, by item."""
        return f"{self.namespace}batch:{batch_id}:jobs"

    def line(self, variant: str, turn: str) -> str:
        """Sorted set, written by both sides: the waiting jobs of one person at one priority, the oldest first.

        It is an index; see `ltx_client.protocol.turns`.
        """
        return f"{self.namespace}line:{variant}:{turn}"

    def turns(self, variant: str) -> str:
        """Sorted set, written by both sides: who has waiting jobs of this variant, at which priority, the next first.

        It is an index; see `ltx_client.protocol.turns`.
        """
        return f"{self.namespace}turns:{variant}"

    def paused(self) -> str:
        """Hash, written by an operator's client: the paused workers and queues, by whom and since when.

        Its fields are `worker_field` and `queue_field` of `ltx_client.protocol.pauses`.
        """
        return f"{self.namespace}paused"

    def reaper(self) -> str:
        """String, written by workers: which worker is the reaper now."""
        return f"{self.namespace}reaper"

    def dead(self) -> str:
        """List, written by workers: the last queue items that were not messages, newest first."""
        return f"{self.namespace}dead"

    def workers(self) -> str:
        """Sorted set, written by workers: their ids, by the time of their last heartbeat."""
        return f"{self.namespace}workers"

    def worker(self, worker_id: str) -> str:
        """Hash, written by that worker: what it is and does. Expires when the worker is gone."""
        return f"{self.namespace}worker:{worker_id}"
