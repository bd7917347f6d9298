"""Test every error reply of a broker to every command: nothing is lost, no thread ends, some are outages."""

import os
import time

import pytest
from pydantic import SecretStr

from ltx_client.errors import BrokerUnreachable, FarmError
from ltx_client.farm.broker import connect
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from tests.integration.conftest import ltx_here, wait_until
from tests.integration.faults.dead_threads import dead_threads
from tests.integration.faults.proxy import Proxy
from tests.integration.faults.quick import CLIENT_SCRIPTS, LEASE, WORKER_SCRIPTS, QuickFarm
from tests.replies import DEFECTS, OUTAGES

SOME = ("OOM", "BUSY", "NOPERM in a script")
COMMANDS = ("BRPOP", "EXEC", "SET", "ZRANGE", "PING", "MULTI", "ZADD", "HSET", "SUBSCRIBE", "INFO", "HGETALL", "LPUSH")


@pytest.fixture(scope="module")
def farm(tmp_path_factory, clean_env):
    farm = QuickFarm(tmp_path_factory.mktemp("replies") / "farm", clean_env)
    try:
        farm.start_worker()
        yield farm
    finally:
        farm.close()


def strike(farm, error, only=None, seconds=0.4):
    """Give a job in mid-render the error; return its id."""
    job_id = farm.submit()
    wait_until(lambda: farm.snapshot(job_id).status is not Status.QUEUED, what="its claim")
    proxy = farm.workers["one"].proxy
    proxy.answer(error, only, WORKER_SCRIPTS)
    time.sleep(seconds)
    proxy.pass_all()
    return job_id


def assert_well_afterwards(farm, said_before=()):
    """Check that all is quiet for some leases, and that a worker killed in mid-render then costs one attempt."""
    worker = farm.workers["one"]
    assert worker.process.poll() is None
    time.sleep(2 * LEASE)
    (said,) = farm.said()
    assert dead_threads(said) == []
    struck = farm.submit(steps=40)
    wait_until(lambda: farm.snapshot(struck).step > 3, what="its first steps")
    worker.kill()
    farm.start_worker()
    later = [farm.submit() for _ in range(2)]
    for snapshot in farm.await_ended(struck, *later):
        assert snapshot.status is Status.DONE
        assert snapshot.attempt <= 2


def assert_done_at_once(farm, jobs):
    for name, job_id in jobs.items():
        (snapshot,) = farm.await_ended(job_id)
        assert (name, snapshot.status, snapshot.attempt) == (name, Status.DONE, 1)


def test_every_outage_of_all_commands_costs_no_attempt(farm):
    jobs = {name: strike(farm, error) for name, error in OUTAGES.items()}
    assert_done_at_once(farm, jobs)
    assert {thread["name"] for (worker,) in [farm.said()] for thread in worker["threads"] if thread["errors"]} >= {
        "leases",
        "events",
        "heartbeat",
        "reaper",
    }
    assert_well_afterwards(farm)


def test_every_script_and_command_may_be_refused(farm):
    jobs = {}
    for number, only in enumerate([*WORKER_SCRIPTS, *COMMANDS[:4]]):
        name = SOME[number % len(SOME)]
        jobs[only, name] = strike(farm, OUTAGES[name], {only}, seconds=0.4)
    assert_done_at_once(farm, jobs)
    assert_well_afterwards(farm)


def test_replies_that_nobody_foresaw_end_no_thread(farm):
    jobs = {name: strike(farm, error, seconds=0.3) for name, error in DEFECTS.items()}
    for name, job_id in jobs.items():
        (snapshot,) = farm.await_ended(job_id)
        assert (name, snapshot.status) == (name, Status.DONE)
        assert snapshot.attempt <= 2
    assert_well_afterwards(farm)


@pytest.mark.lane("slow")
@pytest.mark.parametrize("only", [*WORKER_SCRIPTS, *COMMANDS])
def test_every_reply_to_every_script_and_command(farm, only):
    jobs = {name: strike(farm, error, {only}, seconds=0.3) for name, error in OUTAGES.items()}
    assert_done_at_once(farm, jobs)
    for error in DEFECTS.values():
        (snapshot,) = farm.await_ended(strike(farm, error, {only}, seconds=0.3))
        assert snapshot.status is Status.DONE
        assert snapshot.attempt <= 2
    assert_well_afterwards(farm)


def test_a_finished_video_waits_for_memory_and_is_not_rendered_again(farm):
    """It waits for several leases after the render's end, seen by other workers and this one's own reaper."""
    worker = farm.workers["one"]
    with farm.admin() as client:
        job_id = farm.submit(steps=10)
        wait_until(lambda: farm.snapshot(job_id).step > 3, what="its first steps")
        used = client.info("memory")["used_memory"]
        try:
            client.config_set("maxmemory", used // 2)
            wait_until(lambda: list(worker.spool.glob("*/delivery.json")), what="the video in the spool")
            time.sleep(3 * LEASE)
        finally:
            client.config_set("maxmemory", 0)
    (snapshot,) = farm.await_ended(job_id)
    assert (snapshot.status, snapshot.attempt) == (Status.DONE, 1)
    assert_well_afterwards(farm)


@pytest.fixture(scope="module")
def through(farm):
    """Return a farm as a client behind a proxy sees it, with the proxy, and a job that has ended."""
    ended = farm.submit(steps=1)
    farm.await_ended(ended)
    proxy = Proxy(farm.server.address.port)
    url = SecretStr(farm.url_through(proxy))
    with connect(url) as client:
        yield Farm.over(client, url, farm.names, str(farm.storage)), proxy, ended
    proxy.close()


CALLS = {
    "submit": lambda farm, job: farm.send(*prepare(GenerationRequest(prompt="x", seed=1))),
    "cancel": lambda farm, job: farm.cancel(job),
    "pause": lambda farm, job: farm.pause(job),
    "priority": lambda farm, job: farm.prioritize(job, 3),
    "jobs": lambda farm, job: farm.jobs(),
    "view": lambda farm, job: farm.view(job),
    "find": lambda farm, job: farm.find("no such job"),
    "workers": lambda farm, job: farm.workers(),
    "pauses": lambda farm, job: farm.pauses(),
    "pause_queue": lambda farm, job: farm.pause_queue("pocket"),
    "batches": lambda farm, job: farm.batches(),
    "places": lambda farm, job: farm.places(),
    "preview": lambda farm, job: farm.preview(job),
    "link": lambda farm, job: farm.link(job),
    "log": lambda farm, job: list(farm.log(job)),
    "all_jobs": lambda farm, job: farm.all_jobs(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_client_says_what_every_reply_means(through, call):
    farm, proxy, job = through
    for kinds, expected in ((OUTAGES, BrokerUnreachable), (DEFECTS, FarmError)):
        for name, error in kinds.items():
            proxy.answer(error, scripts=CLIENT_SCRIPTS)
            try:
                with pytest.raises(expected) as raised:
                    CALLS[call](farm, job)
            except pytest.fail.Exception:
                assert name == "WRONGTYPE", name  # a single key is set aside, where there are others
                continue
            finally:
                proxy.pass_all()
            assert raised.value.exit_code == expected.exit_code
            if name != "WRONGTYPE":
                assert "the broker at" in str(raised.value) or "what answers at" in str(raised.value)


COMMAND_LINES = (
    ["submit", "a ball"],
    ["render", "a ball"],
    ["jobs"],
    ["jobs", "--json"],
    ["workers"],
    ["watch"],
    ["show", "JOB"],
    ["logs", "JOB"],
    ["cancel", "JOB"],
    ["pause", "JOB"],
    ["resume", "JOB"],
    ["priority", "JOB", "1"],
    ["retry", "JOB"],
    ["download", "JOB"],
    ["batches"],
    ["stats"],
    ["gc", "--older-than", "1d", "--yes"],
    ["submit", "a ball", "--dry-run"],
)


@pytest.mark.parametrize("line", COMMAND_LINES, ids=" ".join)
def test_a_command_ends_with_the_code_of_what_it_met(through, farm, line):
    _, proxy, job = through
    env = {**farm.client_env, "LTX_BROKER_URL": farm.url_through(proxy)}
    line = [job if word == "JOB" else word for word in line]
    for error, code in ((OUTAGES["OOM"], os.EX_UNAVAILABLE), (DEFECTS["ERR"], 1)):
        proxy.answer(error, but=("PING",))
        try:
            done = ltx_here(*line, env=env, code=code)
        finally:
            proxy.pass_all()
        assert done.output.count("Error: ") == 1
        assert "Traceback" not in done.output
