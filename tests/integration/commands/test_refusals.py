"""Test bad input and a broker that does not answer: one sentence, the right exit code, nothing queued or started."""

import contextlib
import socket
import time

import pytest
import redis

from ltx_client.shared.broker.client import Purpose, make_client
from ltx_client.shared.broker.url import Broker
from tests.integration.conftest import PROMPT, ltx, ltx_here

BAD_INPUT = {
    "frames": (["--frames", "30", PROMPT], "frames 30 is not 8n+1; 25 or 33 would be"),
    "width": (["--width", "500", PROMPT], "width 500 is not a multiple of 32; 480 or 512 would be"),
    "empty prompt": ([""], "the prompt is empty"),
    "blank prompt": (["  "], "the prompt is empty"),
    "variant": (["-v", "giant", PROMPT], "there is no variant 'giant'; the known ones are: pocket"),
    "steps": (["--steps", "0", PROMPT], "steps 0 is out of range; 1 to 1,000 are possible"),
    "long prompt": (["x" * 20_000], "the prompt has 20,000 characters; at most 4,000"),
    "priority": (["--priority", "10", PROMPT], "priority 10"),
    "seed": (["--seed", "-1", PROMPT], "seed -1 is out of range"),
    "too large": (["--width", "2048", "--height", "2048", "--frames", "513", PROMPT], "GB"),
    "id": (["--id", "../../etc", PROMPT], "id '../../etc'"),
}
NO_HANG = 120
"""Seconds within which a command ends that has no broker: a few, and the start of a process on a busy machine."""


@pytest.mark.parametrize("command", ["render", "submit"])
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_anything_starts(no_farm_env, tmp_path, command, case):
    arguments, sentence = BAD_INPUT[case]
    refused = ltx_here(command, *arguments, env=no_farm_env, code=2)
    assert sentence in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stdout == ""
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["render", "submit"])
def test_so_is_it_by_a_command_of_its_own(no_farm_env, tmp_path, command):
    arguments, sentence = BAD_INPUT["frames"]
    refused = ltx(command, *arguments, env=no_farm_env)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert sentence in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "home").exists()


def timed(*command, env):
    """Return the command's output, and how many seconds it took, including its start."""
    began = time.monotonic()
    done = ltx(*command, env=env)
    return done, time.monotonic() - began


def accepted(server):
    """Return how many connections have come to a server since this was asked last."""
    server.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


def test_an_output_folder_that_is_not_there(no_farm_env, tmp_path):
    refused = ltx("render", PROMPT, "-o", tmp_path / "no" / "a.mp4", env=no_farm_env)
    assert refused.returncode == 2
    assert "does not exist" in refused.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", [["render", PROMPT], ["submit", PROMPT], ["jobs"], ["workers"], ["show", "x"]])
def test_a_broker_that_is_not_there(no_farm_env, command):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    env = {**no_farm_env, "LTX_BROKER_URL": f"redis://me:secret@127.0.0.1:{port}/0"}
    refused, waited = timed(*command, env=env)
    assert waited < NO_HANG
    assert refused.returncode == 69
    assert f"127.0.0.1:{port}" in refused.stderr
    assert "secret" not in refused.stderr


def test_a_broker_that_does_not_answer(no_farm_env):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        env = {**no_farm_env, "LTX_BROKER_URL": f"redis://:secret@127.0.0.1:{port}/0"}
        refused, waited = timed("jobs", env=env)
        assert waited < NO_HANG
        assert accepted(mute)
        with pytest.raises(redis.TimeoutError):
            make_client(Broker.parse(env["LTX_BROKER_URL"]), Purpose.COMMAND).ping()
        assert accepted(mute) == 1, "it was tried again; so a person waits longer than LIMITS says"
    assert refused.returncode == 69
    assert f"127.0.0.1:{port} did not answer" in refused.stderr
    assert "secret" not in refused.stderr


def test_a_wrong_password(farm_env):
    port = farm_env.server.address.port
    refused = ltx("jobs", env={**farm_env.env, "LTX_BROKER_URL": f"redis://:wrong-secret@127.0.0.1:{port}/0"})
    assert refused.returncode == 69
    assert "refused the user name or password" in refused.stderr
    assert "wrong-secret" not in refused.stderr


def test_a_broker_url_that_is_none(no_farm_env):
    refused = ltx("jobs", env={**no_farm_env, "LTX_BROKER_URL": "http://me:secret@farm"})
    assert refused.returncode == 2
    assert "LTX_BROKER_URL" in refused.stderr
    assert "secret" not in refused.stderr


def test_a_worker_without_a_farm_says_what_to_set(no_farm_env):
    import subprocess
    import sys

    refused = subprocess.run(
        [sys.executable, "-m", "ltx_worker", "start"], env=no_farm_env, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "set LTX_BROKER_URL" in refused.stderr
