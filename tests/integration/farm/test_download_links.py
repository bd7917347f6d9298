"""Test that a client without access to the storage downloads from the worker that rendered, by its download link."""

import contextlib
import json
import socket
import urllib.request

import psutil
import pytest

from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, ltx_here
from tests.integration.servers import free_port

SMALL = ["--width", 64, "--height", 64, "--frames", 9, "--steps", 2]


@pytest.fixture
def elsewhere(farm_env):
    """A farm whose clients have another folder in place of the workers' storage."""
    port = free_port()
    farm_env.start_worker(
        "one", "--no-op", files_port=port, files_address="127.0.0.1", files_url=f"http://127.0.0.1:{port}"
    )
    (farm_env.folder / "another").mkdir()
    return {**farm_env.env, "LTX_STORAGE_URL": str(farm_env.folder / "another")}


def test_it_comes_by_the_link_and_is_checked(farm_env, elsewhere, tmp_path):
    without = {name: value for name, value in elsewhere.items() if name != "LTX_STORAGE_URL"}
    rendered = ltx_here("render", PROMPT, *SMALL, "--id", "one", "-o", tmp_path / "a.mp4", env=without)
    (stored,) = farm_env.storage.glob("one.*.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == stored.read_bytes()
    assert rendered.stdout.split() == [str(tmp_path / "a.mp4")]

    downloaded = ltx_here("download", "one", "-o", tmp_path / "b.mp4", env=elsewhere)
    assert (tmp_path / "b.mp4").read_bytes() == stored.read_bytes()

    with farm_env.connect() as farm, farm_env.server.address.connect() as client:
        link, key = farm.link("one"), Names().result("one")
        signature = link.rpartition("signature=")[2]
        for text in (rendered.stderr, downloaded.stderr, (farm_env.folder / "one.log").read_text()):
            assert signature not in text
        files = json.loads(client.hget(key, "files"))

        # What is stored there is not what was rendered: it is not taken.
        whole = stored.read_bytes()
        stored.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        changed = ltx_here("download", "one", "-o", tmp_path / "c.mp4", env=elsewhere, code=69)
        assert "its SHA-256 differs" in changed.stderr
        stored.write_bytes(whole)

        # A link of somebody's own making opens nothing.
        client.hset(key, "files", json.dumps(files | {"link": link.replace("/one.", "/two.")}))
        forged = ltx_here("download", "one", "-o", tmp_path / "c.mp4", env=elsewhere, code=69)
        assert "403" in forged.stderr
        assert "Traceback" not in forged.stderr
        assert not (tmp_path / "c.mp4").exists()

        # The worker is gone, and with it the link; the two reasons are one sentence.
        client.hset(key, "files", json.dumps(files))
        farm_env.stop_workers()
        gone = ltx_here("download", "one", "-o", tmp_path / "c.mp4", env=elsewhere, code=69)
        assert "Connection refused; it was asked for there since the storage could not be read (cannot" in gone.stderr


def test_a_link_holds_over_the_workers_restart(farm_env, elsewhere, tmp_path):
    with farm_env.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT, width=64, height=64, num_frames=9, num_steps=2, seed=1))
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.DONE
        port = int(farm.link(job.id).split(":")[2].split("/")[0])
        farm_env.stop_workers()
        farm_env.start_worker(
            "one", "--no-op", files_port=port, files_address="127.0.0.1", files_url=f"http://127.0.0.1:{port}"
        )
        farm.storage_url = None
        farm.download(job.id, tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").stat().st_size == last.snapshot.result.size


FEW_FILES = ["/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh"]
"""Runs a command with as many descriptors as launchd gives, and no way to more."""


def test_a_flood_of_connections_costs_a_worker_nothing(farm_env, tmp_path):
    """More clients than it has descriptors connect to both of its ports and send nothing, while it renders."""
    files, metrics = free_port(), free_port()
    worker = farm_env.start_worker(
        "one",
        "--no-op",
        prefix=FEW_FILES,
        files_port=files,
        files_address="127.0.0.1",
        files_url=f"http://127.0.0.1:{files}",
        metrics_port=metrics,
    )
    request = GenerationRequest(prompt=PROMPT, width=64, height=64, num_frames=9, num_steps=2, seed=1)
    with contextlib.ExitStack() as stack, farm_env.connect() as farm:
        for number in range(300):
            for port in (files, metrics):
                flood = stack.enter_context(socket.socket())
                flood.bind((f"127.0.{number % 50 + 1}.1", 0))
                flood.connect(("127.0.0.1", port))
        assert psutil.Process(worker.pid).num_fds() < 200
        job = farm.submit(request)
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.DONE
        assert last.snapshot.attempt == 1
        farm.storage_url = None
        farm.download(job.id, tmp_path / "a.mp4")
        assert (tmp_path / "a.mp4").stat().st_size == last.snapshot.result.size
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=60) as reply:
            assert b"ltx_jobs_total" in reply.read()
    log = (farm_env.folder / "one.log").read_text()
    assert "Too many open files" not in log
    assert "Traceback" not in log
