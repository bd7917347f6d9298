"""Build every name in Redis that the farm uses. The docstrings give the kind of value, its writer and its content."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_NAMESPACE", "Names", "queue_name"]

DEFAULT_NAMESPACE = "ltx:"


def queue_name(variant: str, memory_gb: int, level: int = 0) -> str:
    """Return the Celery queue of one variant's jobs that fit one memory class, without the namespace.

    Args:
        variant: The variant's name.
        memory_gb: The memory class.
        level: The level of the jobs' features (`ltx_client.protocol.versions.features`).
    """
    return f"{variant}.{memory_gb}+{level}" if level else f"{variant}.{memory_gb}"


@dataclass(frozen=True)
class Names:
    """Names of keys and channels under a namespace."""

    namespace: str = DEFAULT_NAMESPACE

    def job(self, job_id: str) -> str:
        """Return the key of a hash, written by the client.

        It has the job as submitted (spec), when it was, its links, its new priority, the workers that must not render
        it, and `held` while it is paused.
        """
        return f"{self.namespace}job:{job_id}"

    def cancel(self, job_id: str) -> str:
        """Return the key of a string and channel, written by the client.

        It says that the job is to be cancelled.
        """
        return f"{self.namespace}cancel:{job_id}"

    def state(self, job_id: str) -> str:
        """Return the key of a hash, written by workers.

        It has the job's status, attempt, token, sequence number and snapshot.
        """
        return f"{self.namespace}state:{job_id}"

    def events(self, job_id: str) -> str:
        """Return the key of a stream and channel, written by workers.

        It has every event of the job, numbered from 1.
        """
        return f"{self.namespace}events:{job_id}"

    def changes(self) -> str:
        """Return the key of a channel, written by both sides.

        It tells what changes on the farm, one JSON message a change (`ltx_client.protocol.changes`).
        """
        return f"{self.namespace}changes"

    def preview(self, job_id: str) -> str:
        """Return the key of a string, written by workers.

        It is the newest checkpoint frame, a JPEG.
        """
        return f"{self.namespace}preview:{job_id}"

    def lease(self, job_id: str) -> str:
        """Return the key of a string, written by workers.

        It is the token of the running attempt. Expires unless it is renewed.
        """
        return f"{self.namespace}lease:{job_id}"

    def latents(self, job_id: str) -> str:
        """Return the key of a string, written by workers.

        It is the newest resume point of a job that has not ended.
        """
        return f"{self.namespace}latents:{job_id}"

    def result(self, job_id: str) -> str:
        """Return the key of a hash, written by workers.

        It has the names of the files that are the result.
        """
        return f"{self.namespace}result:{job_id}"

    def besides_job(self, job_id: str) -> list[str]:
        """Return all keys that belong to a job's id, except the job's own record."""
        kinds = (self.cancel, self.state, self.events, self.preview, self.lease, self.latents, self.result)
        return [kind(job_id) for kind in kinds]

    def input(self, sha256: str) -> str:
        """Return the key of a string, written by the client.

        It says that the input with this SHA-256 is wanted, or is being removed. Expires.
        """
        return f"{self.namespace}input:{sha256}"

    def readers(self, job_id: str) -> str:
        """Return the key of a hash, written by the client.

        It has the running downloads of the job's video. Expires.
        """
        return f"{self.namespace}readers:{job_id}"

    def embedding(self, digest: str) -> str:
        """Return the key of a string, written by workers.

        It is a text's embedding for the whole farm; `digest` is of text and encoder.
        """
        return f"{self.namespace}embeds:{digest}"

    def embeddings(self) -> str:
        """Return the key of a sorted set, written by workers.

        It has the digests of all embeddings, by their last use.
        """
        return f"{self.namespace}embeds"

    def jobs(self) -> str:
        """Return the key of a sorted set, written by the client.

        It has the ids of all jobs, by time of submission.
        """
        return f"{self.namespace}jobs"

    def batches(self) -> str:
        """Return the key of a sorted set, written by the client.

        It has the ids of all batches, by time of submission.
        """
        return f"{self.namespace}batches"

    def batch(self, batch_id: str) -> str:
        """Return the key of a hash, written by the client.

        It has the batch's name, its submitter and its time of submission.
        """
        return f"{self.namespace}batch:{batch_id}"

    def batch_jobs(self, batch_id: str) -> str:
        """Return the key of a sorted set, written by the client.

        It has the ids of the batch's jobs, including retries, by item.
        """
        return f"{self.namespace}batch:{batch_id}:jobs"

    def line(self, variant: str, turn: str) -> str:
        """Return the key of a sorted set, written by both sides.

        It is an index of one person's waiting jobs at one priority, the oldest first; see
        `ltx_client.protocol.fair_turns`.
        """
        return f"{self.namespace}line:{variant}:{turn}"

    def turns(self, variant: str) -> str:
        """Return the key of a sorted set, written by both sides.

        It is an index of who has waiting jobs of this variant, at which priority, the next first
        (`ltx_client.protocol.fair_turns`).
        """
        return f"{self.namespace}turns:{variant}"

    def paused(self) -> str:
        """Return the key of a hash, written by an operator's client.

        It has the paused workers and queues, by whom and since when, under `worker_field` and `queue_field` of
        `ltx_client.protocol.pauses`.
        """
        return f"{self.namespace}paused"

    def reaper(self) -> str:
        """Return the key of a string, written by workers.

        It names the worker that is the reaper now.
        """
        return f"{self.namespace}reaper"

    def dead(self) -> str:
        """Return the key of a list, written by workers.

        It has the last queue items that were not messages, the newest first.
        """
        return f"{self.namespace}dead"

    def workers(self) -> str:
        """Return the key of a sorted set, written by workers.

        It has the ids of workers, by their last heartbeat.
        """
        return f"{self.namespace}workers"

    def worker(self, worker_id: str) -> str:
        """Return the key of a hash, written by that worker.

        It has what the worker is and does. Expires when the worker is gone.
        """
        return f"{self.namespace}worker:{worker_id}"
