"""What `ltx-worker install` writes for each platform, as the platform's own reader sees it; that it may run again."""

import logging
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ltx_worker.cli import main
from ltx_worker.service import apply, commands, launchd, systemd
from ltx_worker.service.apply import ServiceError, install, uninstall
from ltx_worker.service.commands import make_plan
from ltx_worker.service.environment import UnsafeFile, environment_text, load_environment

SECRET = "hush'w\"o\\rd $HOME #1"


@pytest.fixture(autouse=True)
def as_someone(monkeypatch):
    """The users are there, and files go to nobody."""
    monkeypatch.setattr(apply, "_has_user", lambda name: True)
    monkeypatch.setattr(apply, "_give", lambda path, owner: None)
    monkeypatch.setattr(apply, "STOP_TIMEOUT", 0)
    for name in list(os.environ):
        if name.startswith(("LTX_", "AWS_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LTX_BROKER_URL", f"rediss://worker:{SECRET}@farm/0")


@pytest.fixture(params=["linux", "darwin"])
def plan(request):
    return make_plan(request.param, "pocket", None, "INFO")


class System:
    """Notes the commands, and fails those that a test names."""

    def __init__(self, failing=()):
        self.commands, self.failing = [], failing

    def __call__(self, command):
        self.commands.append(command)
        if command[:2] in self.failing:
            raise ServiceError(f"{command[0]} failed")


def files_under(root):
    return {f"/{path.relative_to(root)}": path.read_text() for path in root.rglob("*") if path.is_file()}


def test_the_launch_daemon():
    plan = make_plan("darwin", "distilled", None, "INFO")
    service = plistlib.loads(plan.files[0].text.encode())
    assert plan.files[0].path == Path("/Library/LaunchDaemons/farm.ltx.worker.plist")
    assert service["Label"] == plan.files[0].path.stem
    assert service["ProgramArguments"][:4] == [sys.executable, "-m", "ltx_worker", "start"]
    assert all(Path(word).is_absolute() for word in service["ProgramArguments"] if "/" in word)
    assert service["UserName"] == "_ltxfarm"
    assert service["KeepAlive"] == {"SuccessfulExit": False}
    assert (service["RunAtLoad"], service["AbandonProcessGroup"]) == (True, False)
    assert (service["ExitTimeOut"], service["ThrottleInterval"], service["ProcessType"]) == (60, 10, "Interactive")
    assert service["EnvironmentVariables"]["LTX_HOME"] == service["WorkingDirectory"] == "/var/lib/ltx-farm"
    rotated = next(file for file in plan.files if "newsyslog" in str(file.path)).text.splitlines()[-1].split()
    assert rotated[0] == service["StandardErrorPath"]
    assert launchd.free_id({0, 450, 451}) == 452


def test_the_unit(tmp_path):
    plan = make_plan("linux", "distilled", None, "INFO")
    unit = tmp_path / plan.files[0].path.name
    unit.write_text(plan.files[0].text)
    lines = unit.read_text().splitlines()
    for line in ("User=ltx-farm", "Restart=on-failure", "OOMPolicy=continue", "TimeoutStopSec=60"):
        assert line in lines
    if shutil.which("systemd-analyze"):
        verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        about_it = [line for line in verified.stderr.splitlines() if unit.name in line]
        assert (verified.returncode, about_it) == (0, [])


def test_the_command_of_a_service_is_one_that_there_is(plan):
    words = plan.setup.command("--log-file", "x")[4:]
    options = {option for parameter in main.commands["start"].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_a_path_with_a_blank_or_a_percent_sign():
    setup = systemd.Setup("pocket", "me", Path("/opt/my farm/100%/python"), systemd.HOME, Path("/etc/x"))
    (line,) = (line for line in systemd.plan(setup, {}).files[0].text.splitlines() if line.startswith("ExecStart="))
    assert line.startswith("ExecStart='/opt/my farm/100%%/python' -m ltx_worker start")


def test_no_secret_is_in_what_others_may_read_nor_in_a_dry_run(plan):
    for file in plan.files:
        assert (SECRET[:4] in file.text) == (file.mode == 0o600)
    assert SECRET[:4] not in "\n".join(apply.describe(plan))
    assert "LTX_BROKER_URL=…" in "\n".join(apply.describe(plan))


def test_again_changes_nothing_and_the_operators_file_is_kept(plan, tmp_path):
    first, said = System(), []
    install(plan, said.append, first, tmp_path)
    assert first.commands == list(plan.load)
    environment = tmp_path / "etc/ltx-farm/worker.env"
    assert environment.stat().st_mode & 0o777 == 0o600
    environment.write_text("LTX_STORAGE_URL='/mine'\n")
    before = files_under(tmp_path)

    again = System(failing=[("launchctl", "bootstrap")])  # it is loaded
    install(plan, said.append, again, tmp_path)
    assert files_under(tmp_path) == before
    assert plan.changed[-1] not in again.commands

    uninstall(plan, said.append, System(failing=[plan.unload[0][:2]]), tmp_path)
    assert set(files_under(tmp_path)) == {"/etc/ltx-farm/worker.env"}
    gone = System()
    uninstall(plan, said.append, gone, tmp_path)
    assert said[-1] == "no service is installed"
    assert gone.commands == []


def test_a_change_restarts_what_runs(plan, tmp_path):
    install(plan, print, System(), tmp_path)
    changed = make_plan("darwin" if "launchctl" in plan.load[0] else "linux", "distilled", None, "INFO")
    system = System()
    install(changed, print, system, tmp_path)
    assert system.commands == [*changed.changed, *changed.load]
    assert "distilled" in files_under(tmp_path)[str(changed.main_file)]


def test_a_step_that_fails_is_named(plan, tmp_path):
    with pytest.raises(ServiceError, match=plan.load[0][0]):
        install(plan, print, System(failing=[plan.load[0][:2]]), tmp_path)


def test_the_user_is_made_where_there_is_none(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(apply, "_has_user", lambda name: False)
    system = System()
    install(plan, print, system, tmp_path)
    assert system.commands == [*plan.make_user, *plan.load]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_dry_run(platform):
    shown = CliRunner().invoke(main, ["install", "--dry-run", "--platform", platform, "-v", "pocket"])
    assert shown.exit_code == 0
    assert str(make_plan(platform, "pocket", None, "INFO").main_file) in shown.output
    assert "worker.env, mode 0600" in shown.output
    assert SECRET[:4] not in shown.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["install", "--platform", "linux"], "--platform is for --dry-run"),
        (["install", "--dry-run", "-v", "giant"], "there is no variant 'giant'"),
    ],
)
def test_what_cannot_be_installed(arguments, sentence):
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert sentence in refused.output


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_only_root_installs(command, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = CliRunner().invoke(main, [command])
    assert refused.exit_code == 2
    assert f"sudo ltx-worker {command}" in refused.output


def test_a_folder_that_the_services_user_could_not_enter(tmp_path):
    inside = tmp_path / "private" / "bin" / "python"
    inside.parent.mkdir(parents=True)
    (tmp_path / "private").chmod(0o700)
    assert apply.unreachable_part(Path("/usr/bin/env")) is None
    assert apply.unreachable_part(Path("/usr/bin/env"), inside) is not None


def test_the_environment_file(tmp_path, monkeypatch):
    path = tmp_path / "worker.env"
    path.write_text(environment_text({"LTX_BROKER_URL": SECRET, "AWS_SECRET_ACCESS_KEY": "a b"}))
    path.chmod(0o600)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    load_environment(path)
    assert (os.environ["LTX_BROKER_URL"], os.environ["AWS_SECRET_ACCESS_KEY"]) == (SECRET, "a b")
    with pytest.raises(ValueError, match="line break"):
        environment_text({"LTX_BROKER_URL": "a\nb"})


def test_an_environment_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "worker.env"
    path.write_text("LTX_BROKER_URL='redis://:hush@farm/0'\n")
    path.chmod(0o640)
    with pytest.raises(UnsafeFile, match="chmod 600"):
        load_environment(path)
    refused = CliRunner().invoke(main, ["start", "--env-file", str(path)])
    assert refused.exit_code == 2
    assert "chmod 600" in refused.output and "hush" not in refused.output
    with pytest.raises(UnsafeFile, match="cannot read"):
        load_environment(tmp_path / "none.env")


@pytest.mark.parametrize(
    ("platform", "follow", "expected"),
    [
        ("linux", [], "journalctl --unit ltx-farm-worker.service --lines 5 --no-pager"),
        ("linux", ["--follow"], "journalctl --unit ltx-farm-worker.service --lines 5 --no-pager --follow"),
        ("darwin", [], "tail -n 5 /var/log/ltx-farm/worker.log"),
        ("darwin", ["--follow"], "tail -n 5 -F /var/log/ltx-farm/worker.log"),
    ],
)
def test_logs(monkeypatch, platform, follow, expected):
    ran = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(commands, "run_shown", lambda command: ran.append(command) or 3)
    shown = CliRunner().invoke(main, ["logs", "-n", "5", *follow])
    assert [" ".join(command) for command in ran] == [expected]
    assert shown.exit_code == 3


def test_a_machine_without_a_journal(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    refused = CliRunner().invoke(main, ["logs"])
    assert refused.exit_code == 1
    assert "on this machine" in refused.output
    assert "Traceback" not in refused.output


def test_a_log_that_grows_is_rotated(tmp_path, monkeypatch):
    root, log = logging.getLogger(), tmp_path / "worker.log"
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr("ltx_worker.cli.LOG_BYTES", 1000)
    CliRunner().invoke(main, ["start", "--log-file", str(log), "-v", "giant"])
    for number in range(300):
        logging.getLogger("test").warning("line %d", number)
    for handler in root.handlers:
        handler.close()
    assert len(list(tmp_path.iterdir())) == 6  # the newest, and five before it
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert "line 299" in log.read_text()


def test_a_log_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    refused = CliRunner().invoke(main, ["start", "--log-file", str(tmp_path / "no" / "worker.log")])
    assert refused.exit_code == 2
    assert "cannot write the log" in refused.output
    refused = CliRunner().invoke(main, ["start", "--log-level", "loud"])
    assert refused.exit_code == 2
    assert "there is no log level loud" in refused.output
