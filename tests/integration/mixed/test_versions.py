"""Test a farm that is upgraded worker by worker: nothing is lost, and nothing fails for its version."""

import json
import signal

import pytest

from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.protocol.versions.features import NEWER_JOBS
from ltx_client.shared.celery.messages import publish
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PATIENCE, PROMPT, ltx_here, wait_until

NAMES = Names()
SUBMIT = f"""
from ltx_client.farm.farm import Farm
from ltx_models.request import GenerationRequest
with Farm.connect() as farm:
    for _ in range(COUNT):
        request = GenerationRequest(prompt={PROMPT!r}, num_steps=5, **FIELDS)
        print(farm.submit(request, variant="pocket").id)
"""


def submit_with(version, farm, count, **fields):
    """Submit jobs by a client of a version; return their ids."""
    done = version.run(farm, "-c", SUBMIT.replace("COUNT", str(count)).replace("FIELDS", repr(fields)))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def submit_raw(farm, **change):
    """Send a job as a client would that knows nothing of levels; `change` is in its record."""
    job = prepare(GenerationRequest(prompt=PROMPT, seed=1, num_steps=3), variant="pocket").job
    with farm.server.address.connect() as client:
        ClientLedger(client, NAMES).submit(job)
        record = json.loads(job.model_dump_json())
        request = {**record["request"], **change.pop("request", {})}
        client.hset(NAMES.job(job.id), "spec", json.dumps({**record, **change, "request": request}))
    publish(farm.server.address.url, NAMES, [job])
    return job.id


def status(client, job_id):
    return (client.hget(NAMES.state(job_id), "status") or b"queued").decode()


def await_done(farm, ids):
    with farm.connect() as connected:
        for job_id in ids:
            wait_until(lambda job_id=job_id: connected.view(job_id).ended, 2 * PATIENCE, f"job {job_id} ending")
        views = [connected.view(job_id) for job_id in ids]
    assert {view.status for view in views} == {Status.DONE}, [view.snapshot for view in views]
    return views


def test_old_and_new_workers_and_clients_share_a_farm(farm_env, old, new):
    old.start_worker(farm_env, "old")
    new.start_worker(farm_env, "new")
    ids = [*submit_with(old, farm_env, 4), *submit_with(new, farm_env, 4)]
    views = await_done(farm_env, ids)
    assert {view.snapshot.attempt for view in views} == {1}
    listed = old.ltx(farm_env, "jobs", "--json")
    assert {job["id"] for job in json.loads(listed.stdout)} == set(ids), listed.stderr
    workers = json.loads(ltx_here("workers", "--json", env=farm_env.env).stdout)
    assert {worker["name"]: NEWER_JOBS in worker["features"] for worker in workers} == {"old": False, "new": True}
    assert "old has an older ltx-farm" in ltx_here("workers", env=farm_env.env).stderr
    assert old.ltx(farm_env, "workers").returncode == 0


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_a_farm_is_upgraded_worker_by_worker_in_either_order(farm_env, old, new, order):
    """Each worker is replaced by one of the other version, with the same home, while jobs are queued and running."""
    before, after = ({"old": old, "new": new}[name] for name in order)
    workers = {name: before.start_worker(farm_env, name) for name in ("one", "two")}
    ids = []
    for name, replaced in workers.items():
        ids += [*submit_with(before, farm_env, 3), *submit_with(after, farm_env, 3)]
        replaced.send_signal(signal.SIGTERM)
        assert replaced.wait(PATIENCE) == 0
        after.start_worker(farm_env, name)
    ids += submit_with(before, farm_env, 2)
    views = await_done(farm_env, ids)
    assert len({view.snapshot.result.video for view in views}) == len(ids)


def test_a_job_of_tomorrow_waits_for_a_worker_of_tomorrow(farm_env, old, new, tomorrow):
    """Workers of today render all else meanwhile, and their reapers leave it alone."""
    old.start_worker(farm_env, "old")
    new.start_worker(farm_env, "new")
    newer, cancelled = submit_with(tomorrow, farm_env, 2, holograms=("a", "b"))
    await_done(farm_env, [job_id for version in (old, new, tomorrow) for job_id in submit_with(version, farm_env, 2)])
    shown = json.loads(ltx_here("show", newer, "--json", env=farm_env.env).stdout)
    assert (shown["status"], shown["state"]["attempt"]) == ("queued", 0)
    assert "request.holograms is unknown" in shown["newer"] and "upgrade" in shown["newer"]
    assert "no live worker can read the job" in shown["waits_for"]
    assert "newer" in ltx_here("jobs", env=farm_env.env).stdout
    warned = tomorrow.ltx(farm_env, "jobs").stderr
    assert "it needs holograms, and new, old have an older one" in warned
    ltx_here("cancel", cancelled, env=farm_env.env)
    tomorrow.start_worker(farm_env, "tomorrow")
    with farm_env.server.address.connect() as client:
        wait_until(lambda: status(client, newer) == "done", 2 * PATIENCE, "the worker of tomorrow rendering it")
        assert client.hget(NAMES.state(newer), "attempt") == b"1"
        wait_until(lambda: client.get(NAMES.reaper()).endswith(b"+1"), what="the worker of tomorrow being the reaper")
        wait_until(lambda: status(client, cancelled) == "cancelled", what="the cancel")
    shown = json.loads(ltx_here("show", newer, "--json", env=farm_env.env).stdout)
    assert (shown["state"]["worker_name"], shown["status"]) == ("tomorrow", "done")


def test_what_reads_no_level_of_today_is_put_back_until_tomorrow(farm_env, new, tomorrow):
    """Jobs that came to a worker of today all the same: sent by a client that knows nothing of levels."""
    holograms = submit_raw(farm_env, request={"holograms": ["a"]})
    kinds = {"kind": "hologram", "source": "sha256:" + "0" * 64}
    others = [submit_raw(farm_env, protocol=2), submit_raw(farm_env, request={"conditioning": [kinds]})]
    damaged = submit_raw(farm_env, request={"width": "wide", "holograms": ["a"]})
    new.start_worker(farm_env, "new")
    with farm_env.server.address.connect() as client:
        wait_until(lambda: status(client, damaged) == "failed", what="the damaged job's failure")
        assert b"record is damaged (request.width" in client.hget(NAMES.state(damaged), "snapshot")
        await_done(farm_env, submit_with(new, farm_env, 2))
        assert {status(client, job_id) for job_id in (holograms, *others)} == {"queued"}
        log = (farm_env.folder / "new.log").read_text()
        assert [log.count(f"job {job_id}: left to newer workers") for job_id in (holograms, *others)] == [1, 1, 1]
        tomorrow.start_worker(farm_env, "tomorrow")
        wait_until(lambda: status(client, holograms) == "done", 2 * PATIENCE, "the worker of tomorrow rendering it")
        assert client.hget(NAMES.state(holograms), "attempt") == b"1"
        assert {status(client, job_id) for job_id in others} == {"queued"}, "a later version's"


def test_why_jobs_have_levels(farm_env, old):
    """A worker that is older than levels fails what it cannot read, so it must not come upon it."""
    job_id = submit_raw(farm_env, request={"holograms": ["a"]})
    old.start_worker(farm_env, "old")
    with farm_env.server.address.connect() as client:
        wait_until(lambda: status(client, job_id) == "failed", what="the old worker's failure")
