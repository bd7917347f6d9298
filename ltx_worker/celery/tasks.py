"""The one Celery task: a message has this worker take a job; the ledger decides which one."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject

from ltx_client.protocol.jobs import RENDER_TASK
from ltx_worker.attempt.outcomes import Outcome
from ltx_worker.attempt.render import Renderer

__all__ = ["register"]


def register(app: Celery, renderer: Renderer) -> None:
    """Add the task to the app."""
    logging.getLogger("celery.app.trace").addFilter(_without_traceback)

    @app.task(name=RENDER_TASK, acks_late=True, ignore_result=True, bind=True, shared=False)  # of this app alone
    def render(task: Task, job_id: str) -> Any:
        match renderer.run(job_id, (task.request.delivery_info or {}).get("routing_key", "")):
            case Outcome.RELEASED:
                raise Reject("another worker is to look at it", requeue=True)
            case Outcome.REFUSED | Outcome.LOST | Outcome.PAUSED:
                raise Ignore
            case Outcome.HANDED_ON | Outcome.ENDED:
                return None


def _without_traceback(record: logging.LogRecord) -> bool:
    """Take the traceback off what Celery logs of a job that is given back, as at each stop: nothing has gone wrong."""
    if record.exc_info and isinstance(record.exc_info[1], Reject):
        record.exc_info = None
    return True
