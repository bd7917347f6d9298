"""Test what deploy/README.md tells an operator to do with the broker."""

import os
import shutil
import ssl

import pytest
import redis

from ltx_client.errors import BrokerUnreachable
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.protocol.workers import PAUSED_BY_USER
from ltx_models.request import GenerationRequest
from ltx_worker.commands.start import _why_refused
from ltx_worker.settings import WorkerSettings
from tests.integration.conftest import PROMPT, ltx_here, wait_until
from tests.integration.deploy.conftest import run_script, running_broker
from tests.integration.farm.test_jobs import reach

SMALL = {"width": 64, "height": 64, "num_frames": 9, "num_steps": 2}


@pytest.fixture
def broker(tmp_path, no_farm_env, secrets):
    """A broker with secrets of its own."""
    with running_broker(tmp_path, shutil.copytree(secrets, tmp_path / "secrets"), "redis 7.0") as broker:
        yield broker


def finish(farm, job_id):
    *_, last = farm.watch(job_id)
    assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)


def test_a_worker_that_was_there_before_its_broker_takes_no_job_that_would_be_lost(secured):
    """It checks when the broker answers, says why it takes none, and begins once that has changed."""
    broker = secured.server
    broker.use_older_users()
    broker.stop()
    secured.launch_worker("one", reap_every=0.2)
    wait_until(lambda: "Cannot connect" in (secured.folder / "one.log").read_text(), what="the worker waiting")
    broker.start()
    with secured.connect() as farm:
        (worker,) = wait_until(lambda: [w for w in farm.workers() if w.state == PAUSED_BY_USER], what="its pause")
        assert "run deploy/users.sh again" in worker.why_paused and "ACL LOAD as admin" in worker.why_paused
        assert "a restart of the broker loses its jobs" in ltx_here("workers", env=secured.env).stderr
        job = farm.render(PROMPT, **SMALL)
        broker.make_users()
        broker.load_users()
    with secured.connect() as farm:
        finish(farm, job.id)


@pytest.mark.parametrize(
    ("setting", "value", "warned"),
    [
        ("appendonly", "no", "append-only is off: jobs are lost when the broker ends"),
        ("maxmemory-policy", "allkeys-lru", "jobs vanish when its memory is full"),
        ("appendfsync", "everysec", ""),
    ],
)
def test_a_worker_warns_of_a_broker_that_may_lose_jobs(broker, caplog, setting, value, warned):
    """It uses no command that its user may not run: no start leaves a line in ACL LOG."""
    url = broker.settings("worker").broker_url
    with broker.connect("tester") as tester:
        tester.config_set(setting, value)
        assert _why_refused(WorkerSettings(broker_url=None), url) is None
        assert tester.acl_log() == []
    assert [record.getMessage() for record in caplog.records if warned not in record.getMessage()] == []
    assert bool(caplog.records) is bool(warned)


def test_connections_that_an_admin_ends_are_made_anew(secured):
    secured.start_worker()
    with secured.connect() as farm:
        job = farm.render(PROMPT, **SMALL | {"num_steps": 400})
        reach(farm, job.id, 5)
        with secured.server.connect("admin") as admin:
            assert admin.execute_command("CLIENT KILL USER worker") > 1
        finish(farm, job.id)


def test_a_new_password_holds_from_acl_load_on(broker):
    old = broker.connect("worker")
    old.ping()
    (broker.secrets / "worker.password").unlink()
    broker.make_users()
    broker.load_users()
    with pytest.raises(redis.ConnectionError):  # AuthenticationError is one
        old.ping()
    old.close()
    with broker.connect("worker") as worker, broker.connect("client") as client:
        assert worker.ping() and client.ping()


def test_a_new_certificate_is_taken_at_the_next_start(broker):
    def serial():
        return ssl.get_server_certificate(("127.0.0.1", broker.port))

    before = serial()
    run_script("certs.sh", broker.secrets, "127.0.0.1")
    assert serial() == before
    broker.stop()
    broker.start()  # which asks with the authority's certificate, as everybody does
    assert serial() != before


def test_two_farms_share_a_broker_and_see_nothing_of_each_other(broker, no_farm_env):
    broker.make_users("studio:")
    broker.load_users()
    studio = Names("studio:")
    with broker.farm("client") as one, broker.farm("studio-client", studio) as two:
        one.submit(GenerationRequest(prompt=PROMPT), job_id="job-1")
        two.submit(GenerationRequest(prompt=PROMPT), job_id="job-2")
        assert [[view.job.id for view in farm.jobs()] for farm in (one, two)] == [["job-1"], ["job-2"]]
    for user, names in (("studio-client", Names()), ("client", studio)):
        with broker.connect(user) as client, pytest.raises(redis.exceptions.NoPermissionError):
            client.exists(names.job("job-1"))
    for user, namespace in (("studio-client", "studio:"), ("studio-admin", "studio:"), ("admin", "ltx:")):
        env = {**no_farm_env, **broker.env(user), "LTX_NAMESPACE": namespace}
        found = ltx_here("doctor", env=env, code=1)  # it has no storage
        assert [line.split()[1] for line in found.stdout.splitlines() if line.startswith("failure")] == ["storage"]


def test_an_endless_script_can_be_ended(broker):
    with broker.connect("tester") as tester:
        tester.config_set("busy-reply-threshold", 100)
    with broker.connect("client") as client, broker.connect("admin") as admin:
        endless = client.script_load("while true do end")
        connection = client.connection_pool.get_connection()
        connection.send_command("EVALSHA", endless, 1, "ltx:x")
        wait_until(lambda: _is_busy(admin), what="the broker being busy")
        admin.script_kill()
        with pytest.raises(redis.ResponseError, match="killed"):
            connection.read_response()
        client.connection_pool.release(connection)
        assert client.ping()


def _is_busy(admin):
    try:
        admin.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error) or "busy" in str(error)
    return False


def test_full_memory_refuses_a_submission_and_keeps_what_is_there(broker):
    with broker.connect("tester") as tester, broker.farm("client") as farm:
        farm.render(PROMPT, job_id="job-1")
        tester.config_set("maxmemory", 1)
        with pytest.raises((redis.OutOfMemoryError, BrokerUnreachable), match="memory"):
            farm.render(PROMPT, job_id="job-2")
        tester.config_set("maxmemory", 0)
        assert tester.exists("ltx:job:job-1") and not tester.exists("ltx:job:job-2")
        farm.render(PROMPT, job_id="job-2")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_the_scripts_make_anew_can_still_be_read_by_the_brokers_user(tmp_path):
    secrets, nobody = tmp_path / "secrets", 65534
    for _ in range(2):
        run_script("certs.sh", secrets, "localhost")
        run_script("users.sh", secrets)
        assert secrets.stat().st_mode & 0o777 == 0o755
        for name in ("broker.key", "users.acl"):
            os.chown(secrets / name, nobody, nobody)
    run_script("certs.sh", secrets, "localhost")
    run_script("users.sh", secrets)
    for name in ("broker.key", "users.acl"):
        made = (secrets / name).stat()
        assert (made.st_uid, made.st_mode & 0o777) == (nobody, 0o600)
