"""What `ltx-worker install` writes for each platform, as the platform's own reader sees it; that it may run again."""

import io
import logging
import os
import plistlib
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from ltx_worker import doctor_command
from ltx_worker.cli import main
from ltx_worker.home import forget_refusal, last_refusal, note_refusal
from ltx_worker.journal import JournalFormatter, is_journal
from ltx_worker.presence import presence
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
    monkeypatch.setattr(launchd, "BOOTSTRAP_PATIENCE", 0)
    for name in list(os.environ):
        if name.startswith(("LTX_", "AWS_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LTX_BROKER_URL", f"rediss://worker:{SECRET}@farm/0")


@pytest.fixture(params=["linux", "darwin"])
def plan(request):
    return make_plan(request.param, "pocket", None, "INFO")


class System:
    """Notes the commands, and fails those that a test names: always, or as often as it says."""

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
    with pytest.raises(ValueError, match="--agent is for macOS"):
        make_plan("linux", "pocket", None, "INFO", agent=True)
    with pytest.raises(ValueError, match="--user is for a service"):
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
    """As its user, with its groups, home and variant."""
    ran = []
    monkeypatch.setattr(doctor_command, "installed_home", lambda: tmp_path)
    monkeypatch.setattr(doctor_command, "installed_service", lambda: ("nobody", ("x", "--variant", "distilled")))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = SimpleNamespace(returncode=1)
    monkeypatch.setattr(
        doctor_command.subprocess, "run", lambda *given, **options: ran.append((given[0], options)) or done
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
    monkeypatch.setattr(doctor_command, "installed_service", lambda: ("no-such-user", ()))
    refused = CliRunner().invoke(main, ["doctor"])
    assert refused.exit_code == 2 and "no such user; install it again" in refused.output


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_another_user_sees_what_it_may(tmp_path, capfd):
    """Where this checkout lies, the service's user may not be able to start Python: then that is said."""
    try:
        outcome = str(doctor_command._as_user("nobody", tmp_path, ["--help"]))
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

    uninstall(plan, said.append, System(failing=[plan.unload[0][:2]]), tmp_path)
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


def _with_question(plan):
    """The commands that start a service which is loaded already."""
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
    monkeypatch.setattr(launchd, "BOOTSTRAP_PATIENCE", 1)
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


def test_a_worker_that_does_not_come_up_is_told_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(apply, "COMES_UP_WITHIN", 0.1)
    with pytest.raises(ServiceError, match=r"has not come up within .*: `ltx-worker logs` says why"):
        apply.await_worker(tmp_path)
    note_refusal(tmp_path, "no storage is set")
    with pytest.raises(ServiceError, match=r"has not come up within .*: no storage is set"):
        apply.await_worker(tmp_path)
    with presence(tmp_path):
        assert apply.await_worker(tmp_path) == os.getpid()


def test_why_a_worker_did_not_start_is_kept_until_it_does(tmp_path, monkeypatch):
    monkeypatch.setenv("LTX_HOME", str(tmp_path))
    monkeypatch.delenv("LTX_BROKER_URL")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    runner = CliRunner()
    path = tmp_path / "worker.log"
    assert runner.invoke(main, ["start", "--log-file", path]).exit_code == 2
    for handler in logging.getLogger().handlers:
        handler.close()
    assert "CRITICAL ltx_worker.cli: the worker does not start: no broker is set" in path.read_text()
    shown = runner.invoke(main, ["start"])
    assert shown.output.count("no broker is set") == 1, "a person reads it once"
    told = runner.invoke(main, ["status"])
    assert told.exit_code == 1
    assert "it did not start the last time: no broker is set; set LTX_BROKER_URL" in told.output
    forget_refusal(tmp_path)
    assert "last time" not in runner.invoke(main, ["status"]).output


def test_launchd_does_not_start_again_what_has_wrong_settings(tmp_path, monkeypatch):
    """It has no exit code but 0 after which a job stays down."""
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
        (["install", "--platform", "linux"], "--platform is for --dry-run"),
        (["install", "--dry-run", "-v", "giant"], "there is no variant 'giant'"),
        (["install", "--restart", "--no-start"], "name one of them"),
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
        ("darwin", [], "tail -n 5 /var/log/ltx-farm/worker.err /var/log/ltx-farm/worker.log"),
        ("darwin", ["--follow"], "tail -n 5 -F /var/log/ltx-farm/worker.err /var/log/ltx-farm/worker.log"),
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


def test_settings_that_were_written_before_become_the_services_own(tmp_path, monkeypatch):
    """As an operator makes them, so that no password stands on a command line: of root, and maybe for all to read."""
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
