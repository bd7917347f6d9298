"""Test that nothing confirmed is lost when the broker ends, on every server, as deploy/ sets it up."""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from unittest import mock

import pytest
import redis
from click.testing import CliRunner

from ltx_client.cli import main
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.doctor.replay_check import LOGGED, examine_replay
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, ltx_here, wait_until
from tests.integration.deploy.conftest import running_broker
from tests.integration.farm.test_jobs import engines_of, reach
from tests.integration.servers import SERVERS, binary_of, release_of
from tests.storages import made

SMALL = {"width": 64, "height": 64, "num_frames": 9, "num_steps": 2}
READ = {
    "string": lambda client, key: client.get(key),
    "hash": lambda client, key: client.hgetall(key),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: client.smembers(key),
    "zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    "stream": lambda client, key: (client.xrange(key), client.xinfo_stream(key)["last-generated-id"]),
}


@pytest.fixture(params=SERVERS)
def broker(request, tmp_path, no_farm_env, secrets):
    """A broker with secrets of its own, which a test may change."""
    with running_broker(tmp_path, shutil.copytree(secrets, tmp_path / "secrets"), request.param) as broker:
        yield broker


def everything(broker, lasting=0.0):
    """Return {key: (its value, when it expires)} for all that does not expire before a time in seconds since 1970."""
    with redis.Redis.from_url(broker.settings("tester").broker_url.get_secret_value()) as client:
        expires = {key: client.pexpiretime(key) for key in client.scan_iter()}
        return {
            key: (READ[client.type(key).decode()](client, key), expiry)
            for key, expiry in expires.items()
            if expiry == -1 or expiry > lasting * 1000
        }


STRANGERS = [
    [],
    ['AUTH ""'],
    ["AUTH x"],
    ['AUTH default ""'],
    ["AUTH default default"],
    ["AUTH default nopass"],
    ["HELLO 3"],
    ['HELLO 3 AUTH default ""'],
    ["AUTH client {password}", "RESET"],
]
"""What somebody may try who would be the default user, a line each; the last is a client who was one."""


def answers(broker, *lines):
    """Return the broker's answers to each of these lines, on a connection of its own."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=60) as connection:
        if broker.tls:
            context = ssl.create_default_context(cafile=broker.secrets / "ca.crt")
            connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
        with connection, connection.makefile("rwb") as stream:
            for line in lines:
                stream.write(line.encode() + b"\r\n")
                stream.flush()
                yield stream.readline()


def test_nobody_is_the_default_user(broker):
    """The default user may do everything, so that the log is loaded: no connection is that user, new or reset."""
    for lines in STRANGERS:
        lines = [line.format(password=broker.password("client")) for line in lines]
        *_, ping, write = answers(broker, *lines, "PING", "SET a b")
        assert (ping[:7], write[:7]) == (b"-NOAUTH", b"-NOAUTH"), lines
    assert next(answers(broker, f"AUTH client {broker.password('client')}")) == b"+OK\r\n"


def shut_down(broker):
    with broker.connect("admin") as admin:
        admin.shutdown()
    broker.process.wait(120)


def end_by(number):
    def end(broker):
        broker.process.send_signal(number)
        broker.process.wait(120)

    return end


ENDS = {"SHUTDOWN": shut_down, "SIGTERM": end_by(signal.SIGTERM), "SIGKILL": end_by(signal.SIGKILL)}


@contextlib.contextmanager
def frozen(secured, worker):
    """Suspend the worker and its engine in the middle of their work while inside, so that nobody writes."""
    processes = [worker, *engines_of(secured.folder)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(0.2)  # what it has sent arrives
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def rewrite_log(broker):
    with broker.connect("admin") as admin:
        admin.bgrewriteaof()
        wait_until(lambda: not admin.info("persistence")["aof_rewrite_in_progress"], what="the log being rewritten")


def logged_by(broker):
    """Return the commands in the broker's log, as it would run them again."""
    found = set()
    for path in (broker.folder / "appendonlydir").glob("*.incr.aof"):
        lines = path.read_bytes().split(b"\r\n")
        found |= {lines[at + 2].decode().upper() for at, line in enumerate(lines) if line[:1] == b"*"}
    return found


def test_however_the_broker_ends_it_has_everything_again(secured):
    """There are jobs of every state, a running one with its lease and resume point, batches, embeddings and pauses."""
    broker = secured.server
    worker = secured.start_worker(save_every=0)
    with secured.connect() as farm, broker.farm("admin") as admin:
        done = farm.render(PROMPT, **SMALL)
        done.wait(240)
        running = farm.render(PROMPT, **SMALL | {"num_steps": 400})
        reach(farm, running.id, 5)
        queued = [farm.render(PROMPT, **SMALL, seed=seed) for seed in range(3)]
        prompts = secured.folder / "prompts.txt"
        prompts.write_text(f"{PROMPT}\n{PROMPT}\n")
        small = ["--width", 64, "--height", 64, "--frames", 9, "--steps", 2]
        ltx_here("batch", prompts, *small, "--after", running.id, env=secured.env)
        queued[0].pause()
        queued[1].cancel()
        admin.pause_queue("pocket-distilled")
    with frozen(secured, worker):
        lasting = time.time() + 30
        before = everything(broker, lasting)
        kinds = {key.decode().split(":")[1] for key in before}
        assert {"job", "state", "lease", "events", "embeds", "latents", "batch", "result", "paused"} <= kinds, kinds
        for name, end in ENDS.items():
            end(broker)
            broker.start()
            assert everything(broker, lasting) == before, name
        rewrite_log(broker)
        with broker.connect("tester") as client:
            client.eval("redis.call('SET', 'a', 1) redis.call('SET', 'b', 2)", 0)
        ENDS["SIGKILL"](broker)
        broker.start()
        after = everything(broker, lasting)
        assert after == before | {b"a": (b"1", -1), b"b": (b"2", -1)}, "after its log was rewritten"
    with secured.connect() as farm, broker.farm("admin") as admin:
        assert [pause.name for pause in admin.pauses()] == ["pocket-distilled"]
        farm.resume(queued[0].id)
        batch = [view.job.id for found in farm.batches() for view in found.views]
        assert len(batch) == 2
        for job_id in [running.id, queued[0].id, queued[2].id, *batch]:
            *_, last = farm.watch(job_id)
            assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
        assert farm.view(queued[1].id).status is Status.CANCELLED
    assert logged_by(broker) - {"SELECT", "MULTI", "EXEC"} <= set(LOGGED)


def loads_without_rights(broker):
    name, version = release_of(broker.binary)
    return name == "valkey" and int(version.split(".")[0]) >= 9


def submit_some(broker, *seeds):
    with broker.farm("client") as farm:
        for seed in seeds:
            farm.submit(GenerationRequest(prompt=PROMPT, seed=seed), job_id=f"job-{seed}")


def about_restarts(broker, user, env):
    """Return what `ltx doctor` finds as this user: (level, text, fix)."""
    with mock.patch.dict(os.environ, {**env, **broker.env(user)}, clear=True):
        done = CliRunner().invoke(main, ["doctor", "--json"])
    (found,) = [finding for finding in json.loads(done.stdout) if finding["about"] == "restart"]
    return found["level"], found["text"], found["mend"]


def start_worker(broker, env):
    """Run `ltx-worker start`, which must refuse; return its exit code and its message."""
    env = {**env, **broker.env("worker"), "LTX_STORAGE_URL": str(broker.folder / "storage")}
    command = [sys.executable, "-m", "ltx_worker", "start"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stderr


def test_users_of_an_older_version_are_found_and_replaced_before_a_restart(broker, no_farm_env):
    broker.use_older_users()
    made(broker.folder / "storage")
    submit_some(broker, 1, 2)
    for user in ("client", "admin"):
        level, text, fix = about_restarts(broker, user, no_farm_env)
        assert (level, "restart of the broker loses its jobs" in text) == ("failure", True)
        assert "run deploy/users.sh again" in fix and "ACL LOAD as admin" in fix
    code, said = start_worker(broker, no_farm_env)
    assert (code, len(said.splitlines())) == (69, 1)
    assert said.startswith(f"Error: the broker at 127.0.0.1:{broker.port} is not used: ")
    assert "run deploy/users.sh again" in said and "ACL LOAD as admin" in said

    broker.make_users()
    broker.load_users()  # on the server that runs with the old ones
    for user in ("client", "admin"):
        assert about_restarts(broker, user, no_farm_env)[0] == "ok"
    before = everything(broker)
    assert b"ltx:job:job-2" in before
    for end in ENDS.values():
        end(broker)
        broker.start()
        assert everything(broker) == before


def test_what_a_restart_with_users_of_an_older_version_left_out_is_still_in_the_log(broker):
    """So is what was submitted since."""
    broker.use_older_users()
    submit_some(broker, 1, 2)
    before = everything(broker)
    ENDS["SIGKILL"](broker)
    broker.start()
    assert (everything(broker) == before) is loads_without_rights(broker)
    submit_some(broker, 3)
    broker.make_users()
    ENDS["SHUTDOWN"](broker)
    broker.start()
    with broker.farm("client") as farm:
        assert {view.job.id for view in farm.jobs()} == {"job-1", "job-2", "job-3"}
    after = everything(broker)
    assert all(after[key] == before[key] for key in (b"ltx:job:job-1", b"ltx:job:job-2"))


def test_a_backup_can_be_restored(broker, tmp_path):
    """As deploy/README.md says: the log is rewritten, then its folder copied."""
    submit_some(broker, 1)
    rewrite_log(broker)
    submit_some(broker, 2)
    before = everything(broker)
    shutil.copytree(broker.folder / "appendonlydir", tmp_path / "backup")
    submit_some(broker, 3)
    ENDS["SHUTDOWN"](broker)
    shutil.rmtree(broker.folder / "appendonlydir")
    shutil.copytree(tmp_path / "backup", broker.folder / "appendonlydir")
    broker.start()
    assert everything(broker) == before


@pytest.mark.parametrize("server", SERVERS)
def test_the_embedded_farms_server_has_everything_again(server, tmp_path, monkeypatch):
    """On a machine without a wheel for it, the server is the one that is installed there."""
    monkeypatch.setattr("ltx_client.local.server.find_server", lambda: binary_of(server))
    folder = FarmFolder(tmp_path)
    folder.create()
    embedded = Server(folder)
    try:
        with embedded.address.connect() as client:
            assert examine_replay(client, Names()).level is Level.OK
            client.eval("redis.call('SET', 'a', 1) redis.call('SET', 'b', 2)", 0)
        for end in (embedded.stop, lambda: (embedded._process.kill(), embedded._process.wait())):
            end()
            embedded.start()
            with embedded.address.connect() as client:
                assert client.mget("a", "b") == [b"1", b"2"]
    finally:
        embedded.stop()
