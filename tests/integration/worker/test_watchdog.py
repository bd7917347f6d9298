"""Test a consumer that receives nothing more: it is rebuilt, and if that does not help, the worker ends."""

import os
import time

import pytest

from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT

DEAF = """
import os
from kombu.transport.redis import Channel
deaf, start = set(), Channel._brpop_start

def brpop_start(channel, timeout=None):
    if os.path.exists("{flag}"):
        deaf.add(channel)
    if channel in deaf:
        return
    start(channel, timeout)

Channel._brpop_start = brpop_start
"""


@pytest.fixture
def deafen(farm_env):
    """Return a file: while it exists, connections of the workers receive nothing any more."""
    folder = farm_env.folder / "site"
    folder.mkdir()
    flag = folder / "flag"
    (folder / "sitecustomize.py").write_text(DEAF.format(flag=flag))
    farm_env.env["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return flag


def go_deaf(flag):
    flag.touch()
    time.sleep(3)  # the consumer waits for a second at a time


def log_of(farm_env):
    return (farm_env.folder / "one.log").read_text()


def test_a_deaf_consumer_is_built_anew(farm_env, deafen):
    worker = farm_env.start_worker("one", "--no-op", idle_limit=2)
    with farm_env.connect() as farm:
        go_deaf(deafen)
        deafen.unlink()
        job = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        *_, last = farm.watch(job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
    assert log_of(farm_env).count("connecting anew") == 1
    assert worker.poll() is None


def test_a_worker_that_stays_deaf_ends(farm_env, deafen):
    worker = farm_env.start_worker("one", "--no-op", idle_limit=2)
    with farm_env.connect() as farm:
        go_deaf(deafen)
        job = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        assert worker.wait(120) == os.EX_TEMPFAIL
        assert log_of(farm_env).count("connecting anew") == 1
        deafen.unlink()
        farm_env.start_worker("one", "--no-op")
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.DONE


def test_a_worker_that_is_only_busy_is_let_be(farm_env):
    worker = farm_env.start_worker(idle_limit=1)
    with farm_env.connect() as farm:
        jobs = [farm.submit(GenerationRequest(prompt=PROMPT, num_steps=30, seed=seed)) for seed in range(2)]
        for update in farm.watch(*(job.id for job in jobs)):
            last = update
        assert last.snapshot.status is Status.DONE
    assert "connecting anew" not in log_of(farm_env)
    assert worker.poll() is None
