"""Send Celery's messages, which bring jobs to workers. Celery is imported late, since that takes half a second."""

from __future__ import annotations

from collections.abc import Sequence

import redis
from pydantic import SecretStr

from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.outages import causes
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.celery_settings import celery_settings, send_render

__all__ = ["publish"]

AT_ONCE = 500
"""Messages sent in one round trip."""


def publish(broker_url: SecretStr, names: Names, jobs: Sequence[Job]) -> None:
    """Send a message for each of these jobs.

    Raises:
        redis.RedisError: The broker did not answer; some messages may have been sent.
    """
    if not jobs:
        return
    import kombu.exceptions
    from celery.app.base import Celery  # by its full name: two threads at once cannot import it by the short one

    settings = celery_settings(Broker.parse(broker_url.get_secret_value()), names)
    with Celery("ltx_client", set_as_current=False) as app:
        app.conf.update(**settings, broker_connection_retry=False)
        try:
            with app.producer_or_acquire() as producer, producer.batch(max_size=AT_ONCE):
                for job in jobs:
                    send_render(app, job, job.priority, producer=producer)
        except (kombu.exceptions.OperationalError, kombu.exceptions.BatchPublishError) as error:
            answer = next((cause for cause in causes(error) if isinstance(cause, redis.RedisError)), None)
            raise answer or redis.ConnectionError(str(error.__cause__ or error)) from error
