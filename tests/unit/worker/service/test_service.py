"""Test what `ltx-worker install` writes for each platform, as the platform reads it, and that it may run again."""

import dataclasses
import io
import logging
import os
import plistlib
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import click
import psutil
import pytest
from click.testing import CliRunner

import ltx_worker
from ltx_worker.cli import main
from ltx_worker.commands import doctor
from ltx_worker.commands import service as commands
from ltx_worker.commands.service import make_plan
from ltx_worker.machine.home import final_refusal, forget_refusal, last_refusal, note_refusal
from ltx_worker.membership.instance_lock import instance_lock
from ltx_worker.service import apply, launchd, systemd
from ltx_worker.service.apply import ServiceError, install, uninstall
from ltx_worker.service.environment import UnsafeFile, environment_text, load_environment, settings_in
from ltx_worker.service.journal import JournalFormatter, is_journal

SECRET = "hush'w\"o\\rd $HOME #1"


@pytest.fixture(autouse=True)
def as_someone(monkeypatch):
    """Let the users exist, and let files be given to nobody."""
    monkeypatch.setattr(apply, "_has_user", lambda name: True)
    monkeypatch.setattr(apply, "_give", lambda path, owner: None)
    monkeypatch.setattr(apply, "STOP_TIMEOUT", 0)
    monkeypatch.setattr(launchd, "BOOTSTRAP_TIMEOUT", 0)
    for name in list(os.environ):
        if name.startswith(("LTX_", "AWS_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LTX_BROKER_URL", f"rediss://worker:{SECRET}@farm/0")


@pytest.fixture(params=["linux", "darwin"])
def plan(request):
    return make_plan(request.param, "pocket", None, "INFO")


class System:
    """Records the commands, and fails those that a test names: always, or as often as it says."""

    def __init__(self, failing=(), code=5):
        self.commands, self.code = [], code
        self.failing = dict(failing) if isinstance(failing, dict) else dict.fromkeys(failing, 10**6)

    def __call__(self, command):
        self.commands.append(command)
        if self.failing.get(command[:2], 0):
            self.failing[command[:2]] -= 1
            raise ServiceError(f"{command[0]} failed", self.code)


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
    assert rotated[1] == "_ltxfarm:", "macOS has no group of a user's name, and one that is missing stops newsyslog"
    assert launchd.free_id({0, 450, 451}) == 452


def test_a_group_takes_an_id_too(monkeypatch):
    monkeypatch.setattr(commands.grp, "getgrall", lambda: [SimpleNamespace(gr_gid=450)])
    monkeypatch.setattr(commands.pwd, "getpwall", lambda: [SimpleNamespace(pw_uid=451)])
    plan = make_plan("darwin", "pocket", None, "INFO")
    assert [command[-1] for command in plan.make_user if "ID" in command[-2]] == ["452"] * 3


def test_the_launch_agent_is_a_users_own(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    plan = make_plan("darwin", "pocket", None, "INFO", agent=True)
    me = pwd.getpwuid(os.getuid()).pw_name
    assert plan.main_file == tmp_path / "Library/LaunchAgents/farm.ltx.worker.plist"
    assert all(path.is_relative_to(tmp_path) for path in (*(file.path for file in plan.files), plan.setup.home))
    assert {file.owner for file in plan.files} == {folder.owner for folder in plan.folders} == {me}
    service = plistlib.loads(plan.files[0].text.encode())
    assert "UserName" not in service and "HOME" not in service["EnvironmentVariables"]
    assert service["EnvironmentVariables"]["LTX_HOME"] == str(plan.setup.home)
    assert plan.start[0][:3] == ("launchctl", "bootstrap", f"gui/{os.getuid()}")
    assert plan.make_user == () and "newsyslog" not in str(plan.files)
    install(plan, print, System(), tmp_path / "root")
    with pytest.raises(ValueError, match="--agent is invalid on this system"):
        make_plan("linux", "pocket", None, "INFO", agent=True)
    with pytest.raises(ValueError, match="--user is invalid with --agent"):
        make_plan("darwin", "pocket", "ann", "INFO", agent=True)


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_root_has_no_agent(command, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    refused = CliRunner().invoke(main, [command, "--agent"])
    assert refused.exit_code == 2
    assert f"ltx-worker {command} --agent" in refused.output


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_what_is_installed_can_be_read_again(platform, tmp_path):
    plan = make_plan(platform, "distilled", None, "INFO")
    kind = launchd if platform == "darwin" else systemd
    path = tmp_path / "service"
    assert kind.installed(path) is None
    path.write_text(plan.files[0].text)
    assert kind.installed(path) == (plan.setup.user, plan.setup.command(*plan_logs(platform)))
    for damaged in ("", "no plist, no unit", "User=a", "\0"):
        path.write_text(damaged)
        assert kind.installed(path) is None


def plan_logs(platform):
    return ("--log-file", str(launchd.DAEMON.log)) if platform == "darwin" else ()


def test_the_doctor_looks_as_the_service_does(monkeypatch, tmp_path):
    """It runs as the service's user, with its groups, home and variant."""
    ran = []
    monkeypatch.setattr(doctor, "installed_home", lambda: tmp_path)
    monkeypatch.setattr(doctor, "installed_service", lambda: ("nobody", ("x", "--variant", "distilled")))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    popen = subprocess.Popen
    monkeypatch.setattr(
        doctor.subprocess,
        "Popen",
        lambda *given, **options: ran.append((given[0], options)) or popen([sys.executable, "-c", "exit(1)"]),
    )
    monkeypatch.setenv("HF_HOME", "/the/admins/own")
    assert CliRunner().invoke(main, ["doctor", "--json"]).exit_code == 1
    command, options = ran[0]
    assert command[1:] == ["-m", "ltx_worker", "doctor", "--variant", "distilled", "--json"]
    nobody = pwd.getpwnam("nobody")
    assert (options["user"], options["group"]) == (nobody.pw_uid, nobody.pw_gid)
    assert nobody.pw_gid in options["extra_groups"]
    environment = options["env"]
    assert environment["HOME"] == environment["LTX_HOME"] == str(tmp_path) and "HF_HOME" not in environment
    monkeypatch.setattr(doctor, "installed_service", lambda: ("no-such-user", ()))
    refused = CliRunner().invoke(main, ["doctor"])
    assert refused.exit_code == 2 and "that user does not exist; install it again" in refused.output


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_another_user_sees_what_it_may(tmp_path, capfd):
    """The service's user may be unable to start Python in this checkout: then the doctor says so."""
    try:
        outcome = str(doctor._as_user("nobody", tmp_path, ["--help"]))
    except click.UsageError as error:
        outcome = str(error)
    assert outcome in ("0", "1") or "the user nobody cannot start" in outcome
    assert "Traceback" not in capfd.readouterr().err


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
    assert first.commands == [*plan.enable, *plan.start]
    environment = tmp_path / "etc/ltx-farm/worker.env"
    assert environment.stat().st_mode & 0o777 == 0o600
    environment.write_text("LTX_STORAGE_URL='/mine'\n")
    before = files_under(tmp_path)

    again = System(failing=[("launchctl", "bootstrap")])  # it is loaded
    install(plan, said.append, again, tmp_path)
    assert files_under(tmp_path) == before
    assert again.commands == [*plan.enable, *_with_question(plan)]

    uninstall(plan, said.append, System(failing=[plan.unload[0][:2], plan.is_loaded[:2]]), tmp_path)
    assert set(files_under(tmp_path)) == {"/etc/ltx-farm/worker.env"}
    gone = System()
    uninstall(plan, said.append, gone, tmp_path)
    assert said[-1] == "no service is installed"
    assert gone.commands == []


def test_a_change_restarts_what_runs(plan, tmp_path):
    install(plan, print, System(), tmp_path)
    changed = make_plan("darwin" if "launchctl" in plan.start[0] else "linux", "distilled", None, "INFO")
    system = System()
    install(changed, print, system, tmp_path)
    assert system.commands == [*changed.changed, *changed.enable, *changed.start]
    assert "distilled" in files_under(tmp_path)[str(changed.main_file)]


def test_a_step_that_fails_is_named(plan, tmp_path):
    for command in (*plan.enable, *plan.start):
        with pytest.raises(ServiceError, match=f"{command[0]} failed"):
            install(plan, print, System(failing=[command[:2], plan.is_loaded[:2]]), tmp_path)


def test_a_program_of_the_system_that_hangs_holds_nobody(tmp_path, monkeypatch):
    program = tmp_path / "dscl"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(apply, "COMMAND_TIMEOUT", 0.3)
    began = time.monotonic()
    with pytest.raises(ServiceError, match=r"`dscl \. -list /Users` has not ended within 0\.3 s and was killed"):
        apply._run(("dscl", ".", "-list", "/Users"))
    assert time.monotonic() - began < 100


def test_without_a_start_nothing_is_started_and_nothing_is_stopped(plan, tmp_path):
    system = System()
    install(plan, print, system, tmp_path, start=False)
    assert system.commands == list(plan.enable)
    platform = "darwin" if "launchctl" in plan.start[0] else "linux"
    changed = make_plan(platform, "distilled", None, "INFO")
    install(changed, print, again := System(), tmp_path, start=False)
    assert again.commands == list(changed.enable)


def test_a_restart_takes_the_service_anew_though_no_file_has_changed(plan, tmp_path):
    install(plan, print, first := System(), tmp_path, restart=True)
    assert first.commands == [*plan.enable, *plan.start], "there was nothing to end"
    install(plan, print, system := System(), tmp_path, restart=True)
    assert system.commands == [*plan.changed, *plan.enable, *plan.start]


def test_a_worker_that_runs_with_older_settings_is_started_anew(plan, tmp_path):
    install(plan, print, System(), tmp_path)
    settings = tmp_path / plan.setup.environment.relative_to("/")
    with instance_lock(tmp_path / plan.setup.home.relative_to("/")):
        started = psutil.Process().create_time()
        for file in plan.files:
            os.utime(tmp_path / file.path.relative_to("/"), (started - 60, started - 60))
        install(plan, print, system := System(), tmp_path)
        assert system.commands == [*plan.enable, *plan.start]
        os.utime(settings, (started + 60, started + 60))  # by an installation that was broken off then
        said = []
        install(plan, said.append, system := System(), tmp_path)
        assert system.commands == [*plan.changed, *plan.enable, *plan.start]
        assert said[-1] == "the worker runs with older settings: it is restarted"
        install(plan, print, system := System(), tmp_path, start=False)
        assert system.commands == list(plan.enable)


def _with_question(plan):
    """Return the commands that start a service which is loaded already."""
    for command in plan.start:
        yield command
        if command[:2] == ("launchctl", "bootstrap"):
            yield plan.is_loaded


@pytest.mark.parametrize(
    ("code", "fails", "was_there", "done"),
    [
        (5, 2, False, True),  # "Bootstrap failed: 5: Input/output error", for a moment
        (37, 10**6, True, True),  # "Operation already in progress"
        (5, 10**6, False, False),
    ],
)
def test_launchd_is_asked_again_for_a_while(tmp_path, monkeypatch, code, fails, was_there, done):
    monkeypatch.setattr(launchd, "BOOTSTRAP_TIMEOUT", 1)
    monkeypatch.setattr(apply, "STOP_TIMEOUT", 1)
    if was_there:
        install(make_plan("darwin", "pocket", None, "INFO"), print, System(), tmp_path)
    plan = make_plan("darwin", "distilled", None, "INFO")
    system = System({("launchctl", "bootstrap"): fails} | ({} if was_there else {plan.is_loaded[:2]: 10**6}), code)
    if done:
        install(plan, print, system, tmp_path)
        assert system.commands[-1] == plan.start[-1]
    else:
        with pytest.raises(ServiceError, match="launchctl failed"):
            install(plan, print, system, tmp_path)


def at_home(plan, home):
    """Return a plan whose worker's folder is this one."""
    return dataclasses.replace(plan, setup=dataclasses.replace(plan.setup, home=home))


def test_a_worker_that_does_not_come_up_is_told_with_its_reason(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(apply, "START_TIMEOUT", 0.5)
    plan, runs, said = at_home(plan, tmp_path), System([("systemctl", "is-failed")]), []
    with pytest.raises(ServiceError, match=r"has not started within .*: `ltx-worker logs` shows why"):
        apply.await_worker(plan, said.append, runs)
    note_refusal(tmp_path, "the storage is away", is_final=False)
    with pytest.raises(ServiceError, match=r"has not started within .*: the storage is away"):
        apply.await_worker(plan, said.append, runs)
    assert said == ["the worker has not started yet, and is tried again for 0.5 s: the storage is away"], "once"
    with instance_lock(tmp_path):
        assert apply.await_worker(plan, said.append, runs) == os.getpid()


def test_a_worker_that_has_ended_for_good_is_told_at_once(plan, tmp_path):
    plan, runs, began = at_home(plan, tmp_path), System([("systemctl", "is-failed")]), time.monotonic()
    note_refusal(tmp_path, "no storage is set")
    with pytest.raises(ServiceError, match=r"its worker does not start: no storage is set"):
        apply.await_worker(plan, print, runs)
    forget_refusal(tmp_path)
    if plan.has_failed:  # it could not even write its reason
        with pytest.raises(ServiceError, match=r"its worker does not start: `ltx-worker logs` shows why"):
            apply.await_worker(plan, print, System())
    assert time.monotonic() - began < apply.START_TIMEOUT


@pytest.mark.parametrize(("away", "final"), [(True, ""), (False, "no storage is set")])
def test_what_may_come_back_is_no_end_for_good(tmp_path, monkeypatch, away, final):
    monkeypatch.setenv("LTX_HOME", str(tmp_path))
    monkeypatch.setenv("LTX_BROKER_URL", "redis://localhost:1/0")
    if away:
        monkeypatch.setenv("LTX_STORAGE_URL", str(tmp_path / "away"))
    CliRunner().invoke(main, ["start"])
    assert final_refusal(tmp_path).startswith(final) and bool(final_refusal(tmp_path)) == bool(final)
    assert "away" in last_refusal(tmp_path) if away else last_refusal(tmp_path) == final_refusal(tmp_path)


def test_why_an_earlier_worker_did_not_start_is_not_told_of_this_one(tmp_path, monkeypatch):
    plan = make_plan("linux", "pocket", None, "INFO")
    plan = dataclasses.replace(at_home(plan, tmp_path), has_failed=())
    monkeypatch.setattr(apply, "START_TIMEOUT", 0.1)
    monkeypatch.setattr(commands, "carry_out", lambda *_, **__: None)
    note_refusal(tmp_path, "no storage is set")
    with pytest.raises(click.ClickException, match="`ltx-worker logs` shows why"):
        commands._carry_out(plan, agent=False, restart=False, no_start=False)


def test_why_a_worker_did_not_start_is_kept_until_it_does(tmp_path, monkeypatch):
    monkeypatch.setenv("LTX_HOME", str(tmp_path))
    monkeypatch.delenv("LTX_BROKER_URL")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    runner = CliRunner()
    path = tmp_path / "worker.log"
    assert runner.invoke(main, ["start", "--log-file", path]).exit_code == 2
    for handler in logging.getLogger().handlers:
        handler.close()
    assert "CRITICAL ltx_worker.commands.start: the worker does not start: no broker is set" in path.read_text()
    shown = runner.invoke(main, ["start"])
    assert shown.output.count("no broker is set") == 1, "a person reads it once"
    told = runner.invoke(main, ["status"])
    assert told.exit_code == 1
    assert "its last start failed: no broker is set; set LTX_BROKER_URL" in told.output
    forget_refusal(tmp_path)
    assert "its last start failed" not in runner.invoke(main, ["status"]).output


def test_a_reason_that_another_user_has_left_is_replaced(tmp_path):
    path, others = tmp_path / "not-started", tmp_path / "others"
    others.write_text("root's")
    path.hardlink_to(others)  # a file that is written in place would stay that user's, and here this one
    note_refusal(tmp_path, "no broker is set")
    assert (last_refusal(tmp_path), others.read_text()) == ("no broker is set", "root's")


def test_that_a_worker_runs_here_is_no_reason_why_none_does(tmp_path, monkeypatch):
    monkeypatch.setenv("LTX_HOME", str(tmp_path))
    monkeypatch.delenv("LTX_BROKER_URL")
    with instance_lock(tmp_path):
        assert CliRunner().invoke(main, ["start"]).exit_code == 2
    assert not last_refusal(tmp_path)


def test_launchd_does_not_start_again_what_has_wrong_settings(tmp_path, monkeypatch):
    """For it, only exit code 0 keeps a job down."""
    monkeypatch.setenv("LTX_HOME", str(tmp_path))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setenv("XPC_SERVICE_NAME", "farm.ltx.worker")
    monkeypatch.setenv("LTX_STORAGE_URL", str(tmp_path / "away"))
    monkeypatch.setenv("LTX_BROKER_URL", "redis://localhost:1/0")
    assert CliRunner().invoke(main, ["start"]).exit_code == 69, "a storage that is away may come back"
    monkeypatch.delenv("LTX_STORAGE_URL")
    assert CliRunner().invoke(main, ["start"]).exit_code == 0
    assert "no storage is set" in last_refusal(tmp_path)


@pytest.mark.parametrize("lying", ["a folder", "a pipe", "a link", "nothing", "not text"])
def test_what_lies_where_a_refusal_is_kept_harms_nobody(tmp_path, lying):
    path, other = tmp_path / "not-started", tmp_path / "other"
    other.write_text("secret")
    match lying:
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "a link":
            path.symlink_to(other)
        case "not text":
            path.write_bytes(b"\xff\x1b[2J" * 3000)
    assert "secret" not in last_refusal(tmp_path) and "\x1b" not in last_refusal(tmp_path)
    note_refusal(tmp_path, "no broker is set")
    assert other.read_text() == "secret"
    forget_refusal(tmp_path)


def test_the_journal_gets_priorities(monkeypatch, tmp_path):
    with (tmp_path / "journal").open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(stream)
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        assert not is_journal(stream)
    assert not is_journal(io.StringIO())
    made = {}
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, 35):
        record = logging.LogRecord("ltx", level, "", 0, "said", None, None)
        made[level] = JournalFormatter().format(record)[:3]
    assert list(made.values()) == ["<7>", "<6>", "<4>", "<3>", "<2>", "<4>"]


def test_the_user_is_made_where_there_is_none(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(apply, "_has_user", lambda name: False)
    system = System()
    install(plan, print, system, tmp_path)
    assert system.commands == [*plan.make_user, *plan.enable, *plan.start]


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
        (["install", "--platform", "linux"], "--platform is invalid without --dry-run"),
        (["install", "--dry-run", "-v", "giant"], "there is no variant 'giant'"),
        (["install", "--restart", "--no-start"], "use one of them"),
        (["install", "--dry-run", "--log-level", "loud"], "'loud' is not one of"),
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


def test_the_folder_of_the_settings_can_be_entered_whatever_roots_umask(plan, tmp_path, monkeypatch):
    before = os.umask(0o077)
    try:
        install(plan, print, System(), tmp_path / "root", start=False)
    finally:
        os.umask(before)
    settings = tmp_path / "root" / plan.setup.environment.relative_to("/")
    assert (settings.parent.stat().st_mode & 0o777, settings.stat().st_mode & 0o777) == (0o755, 0o600)


def test_a_folder_of_settings_that_the_service_could_not_enter_is_told(tmp_path, monkeypatch):
    (tmp_path / "etc").mkdir(mode=0o700)
    plan = make_plan("linux", "pocket", None, "INFO")
    setup = dataclasses.replace(plan.setup, environment=tmp_path / "etc" / "worker.env", python=Path("/usr/bin/env"))
    monkeypatch.setattr(commands, "make_plan", lambda *_, **__: dataclasses.replace(plan, setup=setup))
    monkeypatch.setattr(commands, "_carry_out", lambda *_, **__: pytest.fail("it was installed"))
    monkeypatch.setattr(ltx_worker, "__file__", "/usr/bin/env")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tmp_path.chmod(0o755)
    refused = CliRunner().invoke(main, ["install"])
    assert refused.exit_code == 2 and "which contains its worker.env; use chmod 755 " in refused.output


def test_the_environment_file(tmp_path, monkeypatch):
    path = tmp_path / "worker.env"
    path.write_text(environment_text({"LTX_BROKER_URL": SECRET, "AWS_SECRET_ACCESS_KEY": "a b"}))
    path.chmod(0o600)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    load_environment(path)
    assert (os.environ["LTX_BROKER_URL"], os.environ["AWS_SECRET_ACCESS_KEY"]) == (SECRET, "a b")
    with pytest.raises(ValueError, match="line break"):
        environment_text({"LTX_BROKER_URL": "a\nb"})


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (b"# LTX_BROKER_URL='redis://farm/0'\n", False),
        (b"LTX_BROKER_URL=''\n", False),
        (b"LTX_BROKER_URL='redis://farm/0'\n", True),
        (b"export LTX_BROKER_URL=redis://farm/0\n", True),
        (b"\xef\xbb\xbfLTX_BROKER_URL = 'redis://farm/0'\r\n", True),
    ],
)
def test_whether_the_settings_name_a_broker_is_what_the_worker_reads(tmp_path, monkeypatch, written, names):
    path = tmp_path / "worker.env"
    path.write_bytes(written)
    path.chmod(0o600)
    monkeypatch.delenv("LTX_BROKER_URL")
    assert ("LTX_BROKER_URL" in settings_in(path)) == names
    load_environment(path)
    assert bool(os.environ.get("LTX_BROKER_URL")) == names


def test_an_environment_file_in_another_encoding_is_told(tmp_path):
    path = tmp_path / "worker.env"
    path.write_bytes("# Büro\nLTX_BROKER_URL='redis://farm/0'\n".encode("latin-1"))
    path.chmod(0o600)
    refused = CliRunner().invoke(main, ["start", "--env-file", str(path)])
    assert refused.exit_code == 2 and "it is not in UTF-8" in refused.output
    with pytest.raises(UnsafeFile, match="not in UTF-8"):
        settings_in(path)


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
        ("darwin", [], "tail -n 5 /var/log/ltx-farm/worker.err /var/log/ltx-farm/worker.log"),
        ("darwin", ["--follow"], "tail -n 5 -F /var/log/ltx-farm/worker.err /var/log/ltx-farm/worker.log"),
    ],
)
def test_logs(monkeypatch, platform, follow, expected):
    ran = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(commands, "run_shown", lambda command: ran.append(command) or 3)
    monkeypatch.setattr(commands, "_is_there", lambda path: path in (launchd.DAEMON.plist, launchd.DAEMON.log))
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
    monkeypatch.setattr("ltx_worker.commands.start.LOG_BYTES", 1000)
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
    assert "--log-level loud is invalid" in refused.output


def test_settings_that_were_written_before_become_the_services_own(tmp_path, monkeypatch):
    """An operator makes it before, so that no password is on a command line: as root, and maybe readable by all."""
    plan = make_plan("linux", "pocket", None, "INFO")
    settings = tmp_path / "etc/ltx-farm/worker.env"
    settings.parent.mkdir(parents=True)
    settings.write_text("LTX_BROKER_URL='redis://:hush@farm/0'\n")
    settings.chmod(0o644)
    given = []
    monkeypatch.setattr(apply, "_give", lambda path, owner: given.append((path, owner)))
    install(plan, print, System(), tmp_path)
    assert (settings, plan.setup.user) in given
    assert (settings.stat().st_mode & 0o777, settings.read_text()) == (0o600, "LTX_BROKER_URL='redis://:hush@farm/0'\n")


class Mac:
    """launchd, files and users of a Mac, below a folder.

    runs: the words of the worker's process, if one runs.
    """

    def __init__(self, monkeypatch, tmp_path, runs=None):
        self.system, self.home, self.runs = System(), tmp_path / "ann", runs
        self.home.mkdir()
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(Path, "home", lambda: self.home)
        monkeypatch.setattr(os, "geteuid", lambda: 501)
        monkeypatch.setattr(apply, "_run", self.system)
        monkeypatch.setattr(launchd, "DAEMON", launchd.Kind("system", tmp_path / "daemon.plist", tmp_path / "logs"))
        monkeypatch.setattr(commands, "running_worker", lambda home: 4711 if self.runs else None)
        monkeypatch.setattr(commands, "await_worker", lambda plan, say: 4711)
        process = SimpleNamespace(cmdline=lambda: list(self.runs))
        monkeypatch.setattr(commands.psutil, "Process", lambda pid: process)
        self.agent = commands._own_agent()
        self.settings = commands._agent_home() / "worker.env"

    def __call__(self, *arguments):
        self.system.commands.clear()
        return CliRunner().invoke(main, arguments)


@pytest.fixture
def mac(monkeypatch, tmp_path):
    return Mac(monkeypatch, tmp_path)


def test_what_was_written_without_a_start_is_what_starts_later(mac):
    """launchd starts what it was given last, not what the file says by now."""
    assert mac("install", "--agent").exit_code == 0
    mac.runs = launchd.installed(mac.agent.plist)[1]
    assert "left as it is" not in mac("install", "--agent", "-v", "pocket-distilled", "--no-start").output
    assert "bootout" not in str(mac.system.commands)
    done = mac("install", "--agent", "-v", "pocket-distilled")
    assert "bootout" in str(mac.system.commands), "the worker that runs is one of another variant"
    mac.runs = ("/Frameworks/Python", *launchd.installed(mac.agent.plist)[1][1:])
    done = mac("install", "--agent", "-v", "pocket-distilled")
    assert "bootout" not in str(mac.system.commands) and "still ends after `stop`" in done.output
    mac.runs = None
    mac("install", "--agent", "-v", "pocket-distilled")
    assert "bootout" in str(mac.system.commands), "nothing runs, and nothing is lost"


def test_an_agents_own_settings_and_variant_are_looked_at(mac, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "ltx_worker.commands.doctor_checks.worker_checks",
        lambda settings, row, quick: seen.append((settings, row)) or [],
    )
    monkeypatch.setattr(doctor, "print_report", lambda *_, **__: 0)
    mac("install", "--agent", "-v", "pocket-distilled", "--no-start")
    launchd.DAEMON.plist.write_bytes(mac.agent.plist.read_bytes())
    mac.settings.write_text("LTX_BROKER_URL='redis://agents/0'\n")
    monkeypatch.setenv("LTX_HOME", "")  # so that both are as before when the test is over
    monkeypatch.delenv("LTX_HOME")
    monkeypatch.delenv("LTX_BROKER_URL")
    looked = mac("doctor")
    assert looked.exit_code == 0, looked.output
    settings, row = seen[0]
    assert row.name == "pocket-distilled" and settings.home == mac.settings.parent
    assert settings.broker_url.get_secret_value() == "redis://agents:6379/0"
    assert commands._installed_kind() == mac.agent, "of both, it is the user's"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert commands._installed_kind() == launchd.DAEMON
    launchd.DAEMON.plist.unlink()
    assert "without sudo" in mac("doctor").output


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_folder_that_may_not_be_written_is_said(mac, command, monkeypatch):
    mac("install", "--agent", "--no-start")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "chmod", refuse)
    refused = mac(command, "--agent")
    assert refused.exit_code == 1 and "Permission denied" in refused.output
    assert isinstance(refused.exception, SystemExit)


def test_the_settings_file_decides_whether_there_is_a_farm(mac, monkeypatch):
    mac.settings.parent.mkdir(parents=True)
    mac.settings.write_bytes(b"# LTX_BROKER_URL=a\nLTX_BROKER_URL=\n")
    done = mac("install", "--agent")
    assert "the worker is not started yet: set LTX_BROKER_URL in" in done.output
    assert "differ from it: LTX_BROKER_URL" in done.output
    assert "bootstrap" not in str(mac.system.commands)
    mac.settings.write_text("export LTX_BROKER_URL = redis://farm/0\n")
    assert "the service runs" in mac("install", "--agent").output


def test_a_plist_in_another_form_is_written_anew_and_a_damaged_one_is_none(mac):
    mac("install", "--agent", "--no-start")
    service = plistlib.loads(mac.agent.plist.read_bytes())
    mac.agent.plist.write_bytes(plistlib.dumps(service, fmt=plistlib.FMT_BINARY))
    assert f"wrote {mac.agent.plist}" in mac("install", "--agent", "--no-start").output
    for damaged in (mac.agent.plist.read_bytes()[:200], b"<plist><array/></plist>"):
        mac.agent.plist.write_bytes(damaged)
        assert launchd.installed(mac.agent.plist) is None


def test_who_is_not_logged_in_at_the_screen_is_told(mac):
    mac.system.failing, mac.system.code = {("launchctl", "bootstrap"): 99, ("launchctl", "print"): 99}, 125
    assert "when you log in at this Mac's screen" in mac("install", "--agent").output


def test_a_worker_that_was_told_to_end_is_not_said_to_run_on(mac):
    mac("install", "--agent")
    mac.runs = launchd.installed(mac.agent.plist)[1]
    mark = commands._agent_home() / "worker.ending"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text("4711")
    said = mac("install", "--agent").output
    assert "(process 4711) was asked to end" in said and "--restart restarts it" in said
    assert "the service runs" not in said and "it ran before" not in said
    mark.write_text("4712")
    assert "the service runs (process 4711)" in mac("install", "--agent").output


def test_two_workers_on_a_mac_are_told_of(mac):
    assert "two workers share its GPU" not in mac("install", "--agent").output
    launchd.DAEMON.plist.touch()
    assert "this Mac has a service too: two workers share its GPU" in mac("install", "--agent").output


def test_weights_are_downloaded_as_the_services_user(mac, monkeypatch):
    """It has a cache of its own: what an admin downloads is in the admin's."""
    command = "ltx models download distilled-fp8"
    said = f"are not on this machine; run: {command}"
    assert commands.as_the_service(said, command) == said
    plan = make_plan("darwin", "distilled-fp8", None, "INFO")
    launchd.DAEMON.plist.write_text(plan.files[0].text)
    assert commands.as_the_service(said, command) == said, "an admin's own"
    monkeypatch.setattr(commands, "_user_name", lambda: "_ltxfarm")
    monkeypatch.setenv("LTX_MODELS_DIR", "/Volumes/my farm/models")
    asked = commands.as_the_service(said, command)
    assert "run: sudo -u _ltxfarm env HOME=/var/lib/ltx-farm 'LTX_MODELS_DIR=/Volumes/my farm/models' " in asked
    assert asked.endswith("/ltx models download distilled-fp8")


def test_no_log_is_said(mac):
    assert "no service has run here yet" in mac("logs").output


def test_what_does_not_end_is_not_said_to_be_removed(plan, tmp_path):
    install(plan, print, System(), tmp_path)
    with pytest.raises(ServiceError, match="it still runs"):
        uninstall(plan, print, System(), tmp_path)
    assert not (tmp_path / plan.main_file.relative_to("/")).exists()


@pytest.mark.parametrize("user", ["ann smith", "ann:wheel", "-ann", "ann\nx", "../ann", "ann#"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_users_name_breaks_no_line_of_a_system_file(platform, user):
    """newsyslog stops at a line that it cannot read, for all logs of a Mac."""
    with pytest.raises(ValueError, match="is invalid: a user's name is needed"):
        make_plan(platform, "pocket", user, "INFO")
    for fine in ("_ltxfarm", "ann.smith-2", "STUDIO\\ann", "ann@studio", "Jürgen"):
        assert make_plan(platform, "pocket", fine, "INFO").setup.user == fine


def test_without_a_free_id_it_is_said(monkeypatch):
    monkeypatch.setattr(commands.pwd, "getpwall", lambda: [SimpleNamespace(pw_uid=uid) for uid in range(1000)])
    with pytest.raises(ValueError, match="are taken"):
        make_plan("darwin", "pocket", None, "INFO")
    assert make_plan("darwin", "pocket", "root", "INFO").setup.user == "root"


def test_a_users_own_folder_is_no_obstacle_to_that_user(tmp_path):
    tmp_path.chmod(0o700)
    status = tmp_path.stat()
    assert apply._may_enter(status, status.st_uid or 501, {status.st_gid}) == bool(status.st_uid)
    tmp_path.chmod(0o750)
    assert apply._may_enter(tmp_path.stat(), 4711, {status.st_gid})
    assert not apply._may_enter(tmp_path.stat(), 4711, set())
    assert apply._may_enter(tmp_path.stat(), 0, set())


def test_a_log_level_that_there_is_not_is_refused_at_once(tmp_path, monkeypatch):
    refused = CliRunner().invoke(main, ["install", "--dry-run", "--log-level", "LOUD"])
    assert refused.exit_code == 2 and "'LOUD' is not one of" in refused.output
    monkeypatch.setenv("LTX_HOME", str(tmp_path))
    monkeypatch.setenv("XPC_SERVICE_NAME", "farm.ltx.worker")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert CliRunner().invoke(main, ["start", "--log-level", "LOUD"]).exit_code == 0, "else launchd starts it for ever"
    assert "--log-level LOUD is invalid" in last_refusal(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="gives files away")
def test_another_user_gets_what_the_one_before_has_left(plan, tmp_path):
    """Otherwise it could neither write the log nor take the lock."""
    home, elsewhere = tmp_path / "home", tmp_path / "roots"
    (home / "spool").mkdir(parents=True)
    elsewhere.write_text("root's")
    for name in ("worker.lock", "spool/a.mp4"):
        (home / name).write_text("")
    (home / "link").symlink_to(elsewhere)
    os.link(elsewhere, home / "hard")
    for path in (home, home / "spool", home / "worker.lock", home / "spool" / "a.mp4", home / "link"):
        os.chown(path, 4711, -1, follow_symlinks=False)
    apply._hand_over(home, "nobody")
    nobody = pwd.getpwnam("nobody").pw_uid
    assert {path.name for path in home.rglob("*") if path.lstat().st_uid == nobody} == {
        "spool",
        "worker.lock",
        "a.mp4",
        "link",
    }
    assert elsewhere.stat().st_uid == 0
    apply._hand_over(home, "no-such-user")
