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
    """Forget the threads' errors of an earlier test: after an outage a reaper requeues nothing for a while."""
    yield
    THREADS.refused_at, THREADS.why_unready = -math.inf, ""
    THREADS._histories.clear()


@pytest.fixture(autouse=True)
def _forget_signals():
    """Restore the signal handlers that a command has set, which ends with it in its own process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
