"""Test that no password is in anything that a farm writes, prints and shows, even if everything is logged."""

import contextlib
import os
import subprocess
import sys
import urllib.request
from urllib.parse import quote

import psutil

from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from ltx_worker.service.environment import environment_text
from tests.integration.conftest import PROMPT, ltx, wait_until
from tests.integration.servers import free_port


def command_lines():
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            yield " ".join(process.cmdline())


def test_no_password_is_seen_anywhere(secured, tmp_path):
    """The worker reads its settings from a file, as its service does, and logs everything."""
    port, broker = free_port(), secured.server
    passwords = {user: broker.password(user) for user in ("client", "worker", "admin")}
    storage_key = "the-key-of-no-storage"
    settings = {
        "LTX_BROKER_URL": broker.url("worker"),
        "LTX_BROKER_CA": secured.env["LTX_BROKER_CA"],
        "LTX_STORAGE_URL": secured.env["LTX_STORAGE_URL"],
        "LTX_WORKER_NAME": "one",
        "LTX_WORKER_METRICS_PORT": str(port),
        "AWS_SECRET_ACCESS_KEY": storage_key,
    }
    env_file, log = tmp_path / "worker.env", tmp_path / "worker.log"
    env_file.write_text(environment_text(settings))
    env_file.chmod(0o600)
    base = {name: value for name, value in secured.env.items() if not name.startswith(("LTX_", "AWS_"))}
    worker_env = {**base, "LTX_HOME": str(tmp_path / "worker")}
    worker_command = [sys.executable, "-m", "ltx_worker"]
    options = ["--env-file", env_file, "--log-file", log, "--log-level", "DEBUG"]
    seen = {}

    def ran(name, *arguments, env=secured.env, code=0):
        done = ltx(*arguments, env=env)
        assert done.returncode == code, done.stderr
        seen[name] = done.stdout + done.stderr

    with (tmp_path / "worker.err").open("wb") as errors:
        worker = subprocess.Popen([*worker_command, "start", *options], env=worker_env, stderr=errors, stdout=errors)
    secured.workers.append(worker)
    with secured.connect() as farm:
        wait_until(farm.workers, what="the worker being up")
        done = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        wait_until(lambda: farm.view(done.id).snapshot.step, what="the first step")
        seen["processes"] = "\n".join(command_lines())
        *_, last = farm.watch(done.id)
        assert last.snapshot.status is Status.DONE
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        seen["metrics"] = reply.read().decode()

    ran("show", "show", done.id, "--json")
    ran("doctor", "doctor", "--json")
    ran("config", "config", "show")
    wrong = {"LTX_BROKER_URL": broker.url("client").replace("client:", "worker:")}
    ran("wrong password", "jobs", env={**secured.env, **wrong}, code=69)
    examined = [*worker_command, "doctor", "--quick", "--env-file", env_file]
    seen["worker's doctor"] = subprocess.run(
        examined, env=worker_env, capture_output=True, text=True, check=True
    ).stdout

    broker.stop()  # what is said of a broker that goes away
    wait_until(lambda: "away" in log.read_text(), what="the worker noticing")
    ran("no broker", "submit", PROMPT, code=69)
    broker.start()
    secured.stop_workers()
    assert worker.returncode == 0

    left = [path for path in tmp_path.rglob("*") if path.is_file() and path != env_file]
    seen |= {str(path): path.read_bytes().decode(errors="replace") for path in left}
    assert len(log.read_text()) > 10_000
    for where, text in seen.items():
        for secret in (*passwords.values(), storage_key):
            assert secret not in text and quote(secret, safe="") not in text, f"a password is in {where}"
    assert {"processes", "metrics", str(log), str(broker.folder / "redis.log")} <= set(seen)
    assert any("ltx_worker" in line and str(os.getpid()) not in line for line in seen["processes"].splitlines())
