"""Test workers and queues that an operator pauses: nothing begins, everybody sees it, restarts change nothing."""

import functools
import json
import os
from unittest import mock

import pytest

from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import PAUSED_BY_USER
from ltx_models.request import GenerationRequest
from tests.integration.commands.test_examples import completed
from tests.integration.conftest import PROMPT, ltx_here, wait_until
from tests.integration.farm.test_jobs import first_step
from tests.integration.worker.test_health import worker_named

SMALL = {"width": 64, "height": 64, "num_frames": 9, "num_steps": 2}


@pytest.fixture
def asked(farm_env):
    return functools.partial(ltx_here, env=farm_env.env)


def test_a_paused_worker_finishes_its_job_and_takes_no_more_until_resumed(farm_env, asked):
    farm_env.start_worker("one", reap_every=0.2)
    with farm_env.connect() as farm:
        running = farm.submit(GenerationRequest(prompt=PROMPT, num_steps=30, seed=1))
        first_step(farm, running.id)
        assert "finishes its running job" in asked("pause", "--worker", "one").stderr
        waiting = [farm.render(PROMPT, **SMALL, seed=seed) for seed in range(3)]
        *_, last = farm.watch(running.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
        wait_until(lambda: worker_named(farm, "one").state == PAUSED_BY_USER, what="the worker being paused")
        shown = asked("workers")
        assert "worker one was paused by " in shown.stderr
        assert "`ltx resume --worker one` ends that" in shown.stderr
        assert "paused" in shown.stdout
        assert "has paused it, until" in worker_named(farm, "one").why_paused
        assert "no live worker takes pocket.1 now" in asked("submit", PROMPT, "--steps", 2).stderr

        # Neither the worker's restart nor the broker's ends the pause, which is the machine's and not the process's.
        farm_env.stop_workers()
        farm_env.server.stop()
        farm_env.restart_server()
    with farm_env.connect() as farm:
        assert [pause.name for pause in farm.pauses()] == ["one"]
        assert "worker one was paused by " in asked("workers").stderr
        farm_env.start_worker("one", reap_every=0.2)
        wait_until(lambda: worker_named(farm, "one").state == PAUSED_BY_USER, what="the worker being paused still")
        assert [farm.view(job.id).snapshot.attempt for job in waiting] == [0] * 3
        assert "worker one is resumed" in asked("resume", "--worker", "one").stderr
        for job in waiting:
            *_, last = farm.watch(job.id)
            assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
        assert "worker one was not paused" in asked("resume", "--worker", "one").stderr
        assert farm.pauses() == []


def test_jobs_of_a_paused_queue_wait_and_everybody_is_told(farm_env, asked):
    farm_env.start_worker("one", "--no-op", reap_every=0.2)
    with farm_env.connect() as farm:
        farm.pause_queue("pocket")
        # At once: without waiting for the worker to hear of it.
        jobs = [farm.render(PROMPT, **SMALL, seed=seed) for seed in range(3)]
        wait_until(lambda: worker_named(farm, "one").state == PAUSED_BY_USER, what="the worker hearing of it")
        assert [job.snapshot.attempt for job in jobs] == [0] * 3
        told = "warning: queue pocket was paused by "
        assert told in asked("jobs").stderr
        assert told in asked("submit", PROMPT, "--id", "four").stderr
        assert "queue pocket was paused by" in asked("workers").stderr
        assert "queue pocket was paused by" in " ".join(asked("show", "four").stdout.split())
        assert json.loads(asked("show", "four", "--json").stdout)["queue_paused"]["id"] == "pocket"
        asked("cancel", "four")  # which needs no worker to be free
        asked("resume", "--queue", "pocket")
        assert [job.wait(60).snapshot.attempt for job in jobs] == [1] * 3
        assert "queue pocket was not paused" in asked("resume", "--queue", "pocket").stderr


def test_what_cannot_be_paused_is_said(farm_env, asked):
    farm_env.start_worker("one", "--no-op")
    for command in ("pause", "resume"):
        assert "is called tow; use one of: one" in asked(command, "--worker", "tow", code=2).stderr
        assert "pockets" in asked(command, "--queue", "pockets", code=2).stderr
        with mock.patch.dict(os.environ, farm_env.env):
            assert list(completed(f"{command} --worker", "o")) == ["one"]
            assert list(completed(f"{command} --queue", "po")) == ["pocket", "pocket-distilled"]
    with farm_env.connect() as farm, farm_env.server.address.connect() as client:
        key, one = Names().worker("f" * 32), worker_named(farm, "one")
        client.hset(key, mapping=one.fields() | {"id": "f" * 32})
        client.zadd(Names().workers(), {"f" * 32: one.seen_at})
        assert "2 workers are called one; use one of one (" in asked("pause", "--worker", "one", code=2).stderr
        for name in (f"one ({one.id[-8:]})", one.id[-8:]):
            asked("pause", "--worker", name)
            assert [pause.id for pause in farm.pauses()] == [one.id]
            asked("resume", "--worker", name)
        asked("pause", "--worker", one.id)
        assert [pause.id for pause in farm.pauses()] == [one.id]
        assert "ltx resume --worker one" in asked("doctor").stdout
