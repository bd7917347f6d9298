"""Test a worker whose machine is off duty: its jobs wait, everybody sees why, and it continues by itself."""

import pytest

from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import OFF_DUTY
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, ltx_inside, wait_until

BATTERY = """
import os, types
import psutil
import ltx_worker.machine.duty_hours

ltx_worker.machine.duty_hours.CHECK_EVERY = 0.2

def sensors_battery():
    return types.SimpleNamespace(power_plugged=not os.path.exists("{flag}"))

psutil.sensors_battery = sensors_battery
"""


@pytest.fixture
def unplugged(farm_env):
    """Return a file: while it exists, the machine is on battery."""
    folder = farm_env.folder / "site"
    folder.mkdir()
    flag = folder / "unplugged"
    flag.touch()
    (folder / "sitecustomize.py").write_text(BATTERY.format(flag=flag))
    farm_env.env["PYTHONPATH"] = str(folder)
    return flag


def test_on_battery_it_takes_no_new_jobs(farm_env, unplugged):
    farm_env.start_worker("one", "--no-op", on_battery=False, reap_every=0.5)
    with farm_env.connect() as farm:
        wait_until(lambda: farm.workers()[0].state == OFF_DUTY, what="the worker being off duty")
        submitted = ltx_inside("submit", PROMPT, "-v", "pocket", env=farm_env.env)
        assert submitted.returncode == 0
        assert "no live worker" in submitted.stderr
        shown = ltx_inside("workers", env=farm_env.env)
        assert "one takes no new jobs: it is on battery" in shown.stderr
        assert "off duty" in shown.stdout
        (job,) = farm.jobs()
        assert job.status is Status.QUEUED
        unplugged.unlink()
        *_, last = farm.watch(job.job.id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)


def test_a_job_in_hand_is_rendered_to_its_end(farm_env, unplugged):
    unplugged.unlink()
    farm_env.start_worker(on_battery=False, reap_every=0.5)
    with farm_env.connect() as farm:
        jobs = [farm.submit(GenerationRequest(prompt=PROMPT, num_steps=40, seed=seed)) for seed in range(2)]
        wait_until(lambda: farm.view(jobs[0].id).snapshot.step > 0, what="the first step")
        unplugged.touch()
        wait_until(lambda: farm.workers()[0].why_paused, what="the worker noticing")
        *_, last = farm.watch(jobs[0].id)
        assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
        wait_until(lambda: farm.workers()[0].state == OFF_DUTY, what="the worker being off duty")
        assert farm.view(jobs[1].id).status is Status.QUEUED
