"""Test the embedded farm: a command starts it, several share it, the last one stops it."""

import json
import signal
import sys
import time

import pexpect
import pytest

from ltx_client.local.address import Address
from ltx_client.local.members import FarmFolder
from tests.clips import read_clip
from tests.integration.conftest import PATIENCE, PROMPT, ltx, processes_of, start_ltx, wait_until, words_of

pytestmark = pytest.mark.usefixtures("no_farm_env")


@pytest.fixture
def env(no_farm_env):
    return no_farm_env


def gone(tmp_path):
    return lambda: not processes_of(tmp_path)


def assert_gone(tmp_path):
    """Check that the farm has stopped; the last of its processes may still be ending."""
    wait_until(gone(tmp_path), what="the farm's end")


def jobs(env):
    return json.loads(ltx("jobs", "--json", env=env).stdout)


def spawn(env, *arguments, cwd):
    """Run `ltx` in a terminal."""
    return pexpect.spawn(
        sys.executable, ["-m", "ltx_client", *arguments], env=env, cwd=cwd, encoding="utf-8", timeout=PATIENCE
    )


@pytest.mark.lane("quick")
def test_render_with_nothing_set_up(env, tmp_path):
    done = ltx("render", PROMPT, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_clip(tmp_path / done.stdout.strip()).frames.shape == (25, 128, 128, 3)
    assert "pocket is a small bundled model" in done.stderr
    assert_gone(tmp_path)
    (job,) = jobs(env)
    assert job["status"] == "done"
    assert ltx("download", job["id"], "-o", "again.mp4", env=env, cwd=tmp_path).returncode == 0
    assert_gone(tmp_path)


def test_the_broker_is_private(env, tmp_path):
    render = start_ltx("render", PROMPT, "--steps", 1000, env=env, cwd=tmp_path)
    folder = FarmFolder(tmp_path / "home")
    address = wait_until(lambda: Address.read(folder.description), what="the farm")
    assert [path.stat().st_mode & 0o777 for path in (folder.path, folder.description)] == [0o700, 0o600]
    others = [path for path in folder.path.rglob("*") if path.is_file() and path != folder.description]
    assert not any(address.password.encode() in path.read_bytes() for path in others)
    assert not any(address.password in word for process in processes_of(tmp_path) for word in words_of(process))
    assert not Address(address.port, "wrong").answers()
    assert not Address(address.port, "").answers()
    render.send_signal(signal.SIGINT)
    _, said = render.communicate(timeout=PATIENCE)
    assert render.returncode in (3, 130)  # 130: before the job was queued
    assert address.password not in said
    for log in folder.path.glob("*.log"):
        assert address.password not in log.read_text()


def test_a_second_command_joins_and_the_last_one_stops_the_farm(env, tmp_path):
    up = start_ltx("up", env=env)
    description = FarmFolder(tmp_path / "home").description
    address = wait_until(lambda: Address.read(description), what="the farm")
    done = ltx("render", PROMPT, "-o", tmp_path / "a.mp4", env=env)
    assert done.returncode == 0, done.stderr
    assert Address.read(description) == address
    assert len([p for p in processes_of(tmp_path) if "ltx_worker" in words_of(p)]) == 1
    up.send_signal(signal.SIGINT)
    _, said = up.communicate(timeout=PATIENCE)
    assert up.returncode == 0, said
    assert_gone(tmp_path)


def test_a_killed_render_leaves_nothing_running_and_its_job_queued(env, tmp_path):
    render = start_ltx("render", PROMPT, "--steps", 1000, env=env, cwd=tmp_path)
    wait_until(lambda: any("ltx_worker.engine" in words_of(p) for p in processes_of(tmp_path)), what="the engine")
    render.kill()
    render.communicate()
    wait_until(gone(tmp_path), what="the farm's end")
    assert [job["status"] for job in jobs(env)] == ["queued"]


def test_a_killed_keeper_is_replaced_and_the_worker_does_not_outlive_it(env, tmp_path):
    up = start_ltx("up", env=env)
    home = FarmFolder(tmp_path / "home")
    wait_until(lambda: any("ltx_worker.engine" in words_of(p) for p in processes_of(tmp_path)), what="the engine")
    (keeper,) = [p for p in processes_of(tmp_path) if "ltx_client.local.keeper" in words_of(p)]
    keeper.kill()
    _, said = up.communicate(timeout=PATIENCE)
    assert up.returncode == 69
    assert "stopped unexpectedly" in said
    assert not home.server_lock.is_taken()
    assert_gone(tmp_path)
    assert ltx("render", PROMPT, "-o", tmp_path / "a.mp4", env=env).returncode == 0
    assert_gone(tmp_path)


def test_a_dead_worker_is_started_again(env, tmp_path):
    up = start_ltx("up", env=env)

    def worker():
        return [p for p in processes_of(tmp_path) if "ltx_worker" in words_of(p)]

    (first,) = wait_until(worker, what="the worker")
    first.kill()
    wait_until(lambda: [p for p in worker() if p.pid != first.pid], what="another worker")
    assert ltx("render", PROMPT, "-o", tmp_path / "a.mp4", env=env).returncode == 0
    up.send_signal(signal.SIGTERM)
    up.communicate(timeout=PATIENCE)
    assert_gone(tmp_path)


def test_submit_renders_in_the_background_until_nothing_is_left(env, tmp_path):
    submitted = ltx("submit", PROMPT, env=env)
    assert submitted.returncode == 0, submitted.stderr
    assert "ltx up --stop" in submitted.stderr
    assert ltx("watch", env=env).returncode == 0
    wait_until(gone(tmp_path), what="the farm's end")
    assert [job["status"] for job in jobs(env)] == ["done"]


def test_up_stop(env, tmp_path):
    up = start_ltx("up", env=env)
    wait_until(FarmFolder(tmp_path / "home").address, what="the farm")
    assert "stopped 1" in ltx("up", "--stop", env=env).stderr
    up.communicate(timeout=PATIENCE)
    assert up.returncode == 0
    assert "no `ltx up` is running" in ltx("up", "--stop", env=env).stderr
    assert_gone(tmp_path)


@pytest.mark.parametrize("delay", [0.5, 0.9, 1.2, 1.5, 2.0, 2.5])
def test_ctrl_c_at_any_moment_of_the_start_leaves_nothing(env, tmp_path, delay):
    render = start_ltx("render", PROMPT, "--steps", 1000, env=env, cwd=tmp_path)
    time.sleep(delay)
    render.send_signal(signal.SIGINT)
    _, said = render.communicate(timeout=PATIENCE)
    assert render.returncode in (-signal.SIGINT, 3, 130), said
    assert "Traceback" not in said or render.returncode == -signal.SIGINT  # the interpreter was still starting
    wait_until(gone(tmp_path), what="the farm's end")
    if render.returncode == 3:
        assert {job["status"] for job in jobs(env)} <= {"cancelled"}


def test_ctrl_c_in_a_terminal_asks_and_cancels(env, tmp_path):
    render = spawn(env, "render", PROMPT, "--steps", "1000", cwd=tmp_path)
    render.expect("step ")
    render.sendintr()
    render.expect("Cancel the job")
    render.sendline("y")
    render.expect("was cancelled")
    render.expect(pexpect.EOF)
    render.close()
    assert render.exitstatus == 3
    assert_gone(tmp_path)


def test_ctrl_c_in_a_terminal_can_let_the_job_go_on(env, tmp_path):
    render = spawn(env, "render", PROMPT, "--steps", "60", cwd=tmp_path)
    render.expect("step ")
    render.sendintr()
    render.expect("Cancel the job")
    render.sendline("n")
    render.expect("ltx up --stop")
    render.expect(pexpect.EOF)
    render.close()
    assert render.exitstatus == 0
    assert ltx("watch", env=env).returncode == 0
    wait_until(gone(tmp_path), what="the farm's end")
    (job,) = jobs(env)
    assert (job["status"], job["state"]["attempt"]) == ("done", 1)


def test_a_second_ctrl_c_leaves_at_once(env, tmp_path):
    render = spawn(env, "render", PROMPT, "--steps", "1000", cwd=tmp_path)
    render.expect("step ")
    render.sendintr()
    render.expect("Cancel the job")
    render.sendintr()
    render.expect(pexpect.EOF)
    render.close()
    assert render.exitstatus == 130
    wait_until(gone(tmp_path), what="the farm's end")
    assert [job["status"] for job in jobs(env)] == ["queued"]


def test_two_farms_of_two_homes_do_not_meet(env, tmp_path):
    other = {**env, "LTX_HOME": str(tmp_path / "other home")}
    assert ltx("render", PROMPT, "-o", tmp_path / "a.mp4", env=other).returncode == 0
    assert jobs(env) == []
    assert len(list((tmp_path / "other home" / "videos").glob("*.mp4"))) == 1
