"""Test that every command's help ends with an example, and that each example works, on a farm of this test's own."""

import json
import re
import shlex
import sys

import click
import pexpect
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from ltx_client.cli import main
from tests.integration.conftest import PROMPT
from tests.unit.client.terminal.test_notify import receiver  # noqa: F401 - a fixture

JOB, CANCELLED = "3fa85f64a1b2", "5c1e7a90b2d4"
PARSED_ONLY = {
    "models download": "needs the network",
    "models verify": "reads what was downloaded",
    "models convert": "takes minutes",
    "bench farm": "takes a minute; tested by itself",
    "bench model": "takes minutes at these sizes; tested by itself with smaller ones",
    "up": "this machine's own farm is not the one of this test",
}


SAYS = {
    "logs": r"attempt 1 begins on one .*step 4/4  ?took .*"
    r"done: done-3fa85f64a1b2\.1\.[0-9a-f]{12}\.mp4, .*SHA-256 [0-9a-f]{64}",
    "stats": r'"variant": "pocket",\s+"worker": "one".*"done": [1-9].*"median_step_seconds": 0\.\d+',
    "show": r"status +done",
    "jobs": r'"id": "done-3fa85f64a1b2",\s+"status": "done"',
    "workers": r'"name": "one"',
    "retry": r"^[0-9a-f-]{36}$",
}
"""What must be in what an example prints."""


def leaves(group, path=()):
    """Yield every command that does something, with its path."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        yield (*path, name), command


COMMANDS = {" ".join(path): command for path, command in leaves(main)}


def example(name):
    """Return the words of a command's example, without `ltx`."""
    text = COMMANDS[name].epilog.removeprefix("Example: ")
    match = re.match(r"(?P<line>ltx .*?)(, and in another terminal: .*)?$", text)
    return shlex.split(match["line"])[1:]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_can_be_parsed(name):
    words = example(name)
    context = main.make_context("ltx", words[:2] if words[0] == "--farm" else [], resilient_parsing=True)
    words = words[2:] if words[0] == "--farm" else words
    command = main
    while isinstance(command, click.Group) and words:
        command = command.commands[words.pop(0)]
    assert command is COMMANDS[name] or command in getattr(COMMANDS[name], "commands", {}).values()
    command.make_context(name, words, parent=context)


@pytest.fixture
def farm_with_jobs(farm_env, tmp_path, monkeypatch):
    """Return a farm with a worker, and jobs of the ids that the examples name: one done, one cancelled."""
    monkeypatch.chdir(tmp_path)
    for name in ("LTX_BROKER_URL", "LTX_STORAGE_URL", "LTX_HOME"):
        monkeypatch.setenv(name, farm_env.env[name])
    monkeypatch.setenv("LTX_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("[farms.studio]\n")
    (tmp_path / "prompts.txt").write_text(PROMPT)
    small = {"width": 64, "height": 64, "num_frames": 9, "num_steps": 4}
    with farm_env.connect() as farm:
        cancelled = farm.render(PROMPT, job_id=f"cancelled-{CANCELLED}", **small)
        cancelled.cancel()
        farm_env.start_worker(reap_every=0.2)
        farm.render(PROMPT, job_id=f"done-{JOB}", checkpoint_every=1, **small).wait(60)
    return farm_env


def test_the_examples_run(farm_with_jobs, tmp_path, monkeypatch):
    failures = {}
    for name in COMMANDS:
        if name in PARSED_ONLY or isinstance(COMMANDS[name], click.Group):
            continue
        words = [str(tmp_path / "farm") if word == "/Volumes/farm" else word for word in example(name)]
        done = CliRunner().invoke(main, words, input="y\n")
        if done.exit_code or not re.search(SAYS.get(name, ""), done.output, re.DOTALL):
            failures[name] = done.output + repr(done.exception)
    assert not failures
    assert not set(SAYS) - set(COMMANDS)
    for command in (["submit"], ["render"]):
        planned = CliRunner().invoke(main, [*command, PROMPT, "--steps", "4", "--dry-run"]).stdout
        assert re.search(r"memory +0\.\d+ GB \(class 1\)\s+served by +one\s+each takes +about \d", planned), planned
    (tmp_path / "two.txt").write_text(f"{PROMPT}\n{PROMPT}\n")
    planned = CliRunner().invoke(main, ["batch", "two.txt", "-v", "dev", "--dry-run"]).stdout
    assert re.search(r"videos +2\s+variant +dev.*served by +nobody now\s+each takes +unknown", planned, re.DOTALL), (
        planned
    )
    monkeypatch.delenv("LTX_BROKER_URL")
    alone = CliRunner().invoke(main, ["submit", PROMPT, "-v", "dev", "--frames", "257", "--dry-run"])
    assert alone.exit_code == 0, alone.output
    assert "this machine" in alone.stdout
    assert set(PARSED_ONLY) <= set(COMMANDS)


def test_who_watches_can_have_others_told_and_a_shell_knows_the_jobs(
    farm_with_jobs,
    receiver,  # noqa: F811
    monkeypatch,
    tmp_path,
):
    url, got, _ = receiver
    done = CliRunner().invoke(main, ["watch", JOB, CANCELLED, "--notify", url])
    assert done.exit_code == 0, done.output
    ((_, _, body),) = got
    assert json.loads(body)["summary"] == "2 jobs: 1 done, 1 cancelled"
    table = pexpect.spawn(
        sys.executable,
        ["-m", "ltx_client", "watch", JOB, CANCELLED],
        env=farm_with_jobs.env,
        encoding="utf-8",
        timeout=120,
    )
    table.expect(f"{CANCELLED}.*{JOB}.* done.* cancelled.*idle")
    table.expect(pexpect.EOF)
    (farm_with_jobs.folder / "two.txt").write_text(f"{PROMPT}\n")
    small = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "2"]
    batch = CliRunner().invoke(main, ["batch", "two.txt", "--seeds", "1-2", *small, "--notify", url])
    assert batch.exit_code == 0, batch.output
    assert json.loads(got[1][2])["summary"] == "2 jobs: 2 done"
    assert json.loads(got[1][2])["batch"] == batch.stdout.strip()
    a_shell_completes(monkeypatch, tmp_path)


def completed(line, incomplete=""):
    """Return what a shell would complete after this line."""
    complete = BashComplete(main, {}, "ltx", "_LTX_COMPLETE")
    return {item.value: item.help for item in complete.get_completions(line.split(), incomplete)}


def a_shell_completes(monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text(PROMPT)
    assert CliRunner().invoke(main, ["batch", "a.txt", "--id", "night-1234"]).exit_code == 0
    offered = completed("show")
    assert offered[JOB] == f"done: {PROMPT}"
    assert offered[CANCELLED].startswith("cancelled: ")
    assert list(completed("cancel x", JOB[:3])) == [JOB]
    assert completed("watch --batch")["1234"] == "a.txt"
    assert set(completed("render x -v", "distilled")) == {"distilled", "distilled-fp8"}
    assert "pocket" in completed("models verify")
    assert set(completed("--farm")) == {"studio", "local"}
    assert completed("--farm studio show") == {}, "that farm is this machine's own, which does not run"
    monkeypatch.setenv("LTX_BROKER_URL", "redis://127.0.0.1:1/0")
    assert completed("show") == completed("watch --batch") == {}
    monkeypatch.setenv("LTX_BROKER_URL", "nonsense")
    assert completed("show") == {}
