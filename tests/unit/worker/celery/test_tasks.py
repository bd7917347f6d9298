"""What is logged of a job that is given back, as at each stop of a worker."""

import logging

from celery import Celery

from ltx_worker.attempt.outcomes import Outcome
from ltx_worker.celery.tasks import register


class Releasing:
    def run(self, job_id, queue):
        return Outcome.RELEASED


def test_a_job_that_is_given_back_leaves_no_traceback(monkeypatch):
    app = Celery("test", set_as_current=False, broker="memory://")
    register(app, Releasing())
    (task,) = (task for name, task in app.tasks.items() if not name.startswith("celery."))
    records: list[logging.LogRecord] = []
    log = logging.getLogger("celery.app.trace")  # whatever others made of it in this process
    for name, value in (("disabled", False), ("level", logging.DEBUG), ("_cache", {})):
        monkeypatch.setattr(log, name, value)
    monkeypatch.setattr(log, "callHandlers", records.append)
    task.apply(args=["job-1"])
    (said,) = (record for record in records if "reject" in record.getMessage())
    assert "another worker is to look at it" in said.getMessage()
    assert said.exc_info is None
