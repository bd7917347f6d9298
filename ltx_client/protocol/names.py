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
        """Hash, written by the client: the job as submitted (spec), when, its links to other jobs, which workers it
        is kept from, and what was asked for since: another priority; held while it is paused.
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

    def besides_job(self, job_id: str) -> list[str]:
        """All keys that a job's id may have, besides the job's own."""
        kinds = (self.cancel, self.state, self.events, self.preview, self.lease, self.latents, self.result)
        return [kind(job_id) for kind in kinds]

    def input(self, sha256: str) -> str:
        """String, written by the client: somebody wants to give a job what has this content, or is about to remove it.
        Expires.
        """
        return f"{self.namespace}input:{sha256}"

    def readers(self, job_id: str) -> str:
        """Hash, written by the client: the downloads of a job's video that are running. Expires."""
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
        """Hash, written by the client: what a batch is called, whose it is, and when it was submitted."""
        return f"{self.namespace}batch:{batch_id}"

    def batch_jobs(self, batch_id: str) -> str:
        """Sorted set, written by the client: the ids of a batch's jobs, those that stand in for others too, by item."""
        return f"{self.namespace}batch:{batch_id}:jobs"

    def line(self, variant: str, turn: str) -> str:
        """Sorted set, an index that both sides write (`ltx_client.protocol.turns`): the jobs with which a person waits
        at a priority, the oldest first.
        """
        return f"{self.namespace}line:{variant}:{turn}"

    def turns(self, variant: str) -> str:
        """Sorted set, an index that both sides write: who waits for a worker of this variant, at which priority, who is
        next first.
        """
        return f"{self.namespace}turns:{variant}"

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
