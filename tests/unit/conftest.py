import math

import fakeredis
import pytest

from ltx_worker.threads.watched import THREADS


@pytest.fixture
def redis_client():
    return fakeredis.FakeRedis()


@pytest.fixture(autouse=True)
def _forget_threads():
    """What one test's threads met is nothing to the next: a reaper is patient for a while after an outage."""
    yield
    THREADS.refused_at, THREADS.why_unready = -math.inf, ""
    THREADS._histories.clear()
