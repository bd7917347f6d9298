import math
import signal

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


@pytest.fixture(autouse=True)
def _forget_signals():
    """Put back the handlers of signals that a command has set, which in its own process ends with it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
