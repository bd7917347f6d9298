"""Test `ltx doctor` on healthy farms and on others: each fault is found, with a fix."""

import contextlib
import json
import shutil
import subprocess
import time
from collections import namedtuple

import pytest
import redis
from click.testing import CliRunner
from pydantic import SecretStr

from ltx_client.cli import main
from ltx_client.farm.broker import connect
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Address, Server, find_server
from ltx_client.protocol.names import Names
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.doctor import broker_checks, storage_checks
from ltx_client.shared.doctor.broker_checks import BrokerChecks
from ltx_client.shared.doctor.checks import Finding, Level, run_checks, worst
from ltx_client.shared.doctor.replay_check import LOGGED, examine_replay
from ltx_client.shared.doctor.storage_checks import StorageChecks
from ltx_client.terminal.client_checks import client_checks
from ltx_models.families.variants import find_variant
from ltx_worker.commands.doctor_checks import worker_checks
from ltx_worker.settings import WorkerSettings
from tests.integration.conftest import wait_until
from tests.integration.servers import free_port
from tests.storages import made

OK, WARNING, FAILURE = Level


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = FarmFolder(tmp_path_factory.mktemp("broker"))
    folder.create()
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture
def admin(server):
    settings = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "maxmemory": "0"}
    with server.address.connect() as client:
        yield client
        for name, value in settings.items():
            client.config_set(name, value)
        client.acl_deluser("ann")
        client.flushall()


def examine(server, url=None):
    url = url or server.address.url
    checks = BrokerChecks(lambda: connect(url), url, Names()).checks()
    return {finding.about: finding for finding in run_checks(checks)}


def test_a_broker_that_is_well(server, admin):
    found = examine(server)
    assert {finding.level for finding in found.values()} == {OK}
    assert "appendfsync always" in found["persistence"].text
    assert found["version"].text.startswith("valkey 9.")
    assert "noeviction" in found["eviction"].text
    assert set(found) == {"broker", "version", "persistence", "restart", "eviction", "clock", "rights"}


FAULTS = {
    "no append-only file": ({"appendonly": "no"}, "persistence", FAILURE, "CONFIG SET appendonly yes"),
    "fsync each second": ({"appendfsync": "everysec"}, "persistence", WARNING, "CONFIG SET appendfsync always"),
    "eviction": (
        {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"},
        "eviction",
        FAILURE,
        "maxmemory-policy noeviction",
    ),
    "eviction, unbounded": ({"maxmemory-policy": "allkeys-lru"}, "eviction", WARNING, "maxmemory-policy noeviction"),
    "full": ({"maxmemory": "1"}, "eviction", FAILURE, "ltx gc"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_broker_is_found(server, admin, fault):
    settings, about, level, fix = FAULTS[fault]
    for name, value in settings.items():
        admin.config_set(name, value)
    found = examine(server)
    assert found[about].level is level
    assert fix in found[about].fix
    assert [name for name, finding in found.items() if finding.level is not OK] == [about]
    for command in found[about].fix.split("redis-cli ")[1:]:  # the named commands fix it
        admin.execute_command(*command.split())
        assert examine(server)[about].level is OK


def test_what_a_user_may_not_see_is_said_and_no_fault(server, admin):
    admin.execute_command("ACL SETUSER ann on >pw ~ltx:* &ltx:* -@all +ping +time +zrange +acl|dryrun")
    found = examine(server, SecretStr(f"redis://ann:pw@127.0.0.1:{server.address.port}/0"))
    assert {finding.level for finding in found.values()} == {OK}
    assert "INFO is not allowed" in found["persistence"].text
    assert found["rights"].text == "the farm's keys and no others"
    admin.execute_command("ACL SETUSER ann resetkeys ~other:*")
    found = examine(server, SecretStr(f"redis://ann:pw@127.0.0.1:{server.address.port}/0"))
    assert found["rights"].level is FAILURE


def test_who_may_not_see_the_farm_is_told_so_once(server, admin, no_farm_env, tmp_path):
    admin.execute_command("ACL SETUSER ann on >pw ~studio:* &studio:* -@all +ping +time +zrange +hgetall +acl|dryrun")
    url = SecretStr(f"redis://ann:pw@127.0.0.1:{server.address.port}/0")
    made(tmp_path)
    settings = WorkerSettings(
        home=tmp_path / "home", broker_url=url, storage_url=str(tmp_path)
    )  # and not with its namespace
    for checks in (client_checks(settings), worker_checks(settings, find_variant("pocket"), quick=True)):
        found = [finding for finding in run_checks(checks) if finding.level is FAILURE]
        assert [finding.about for finding in found] == ["rights"]
        assert "LTX_NAMESPACE" in found[0].fix


RULES = {  # of the default user: whether all that is logged is loaded, or what of it is not
    "as a server begins": ("", None),
    "off": ("off", None),
    "off and without a password": ("off resetpass", None),
    "without what administrators do": ("-@admin -@dangerous", None),
    "off and without rights": ("off resetkeys resetchannels -@all", "may not run DEL, HDEL, HINCRBY and 17 more"),
    "without one command": ("-xadd", "may not run XADD"),
    "without writing": ("-@write", "may not run DEL,"),
    "without expiry": ("-expire -pexpireat -expireat", "may not run PEXPIREAT"),
    "with other keys": ("resetkeys ~other:*", "may not run DEL,"),
    "with keys to read": ("resetkeys %R~*", "may not run DEL,"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_default_user_who_lacks_rights_is_found(server, admin, rule):
    words, lacking = RULES[rule]
    admin.execute_command("ACL SETUSER ann on >pw ~* &* +@all")
    url = SecretStr(f"redis://ann:pw@127.0.0.1:{server.address.port}/0")
    with connect(url) as ann:
        ann.execute_command(f"ACL SETUSER default {words}")
        finding = examine(server, url)["restart"]
        ann.execute_command(f"ACL SETUSER default reset on >{server.address.password} ~* &* +@all")
    assert finding.level is (FAILURE if lacking else OK)
    if lacking:
        assert f"a restart of the broker loses its jobs: its user default {lacking}" in finding.text
        assert "deploy/users.sh" in finding.fix and "ACL LOAD as admin" in finding.fix


def test_a_user_who_may_not_ask_of_the_default_user_is_told_so(server, admin):
    admin.execute_command("ACL SETUSER ann on >pw ~* &* +@all -acl")
    finding = examine(server, SecretStr(f"redis://ann:pw@127.0.0.1:{server.address.port}/0"))["restart"]
    assert (finding.level, "may not use ACL DRYRUN" in finding.text) == (FAILURE, True)
    assert "deploy/users.sh" in finding.fix


def test_a_command_that_was_renamed_is_found(tmp_path):
    """With the renamed command the broker would not start again."""
    port = free_port()
    config = tmp_path / "valkey.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\nappendonly yes\nappendfsync always\nrename-command XADD hidden\n")
    process = subprocess.Popen([find_server(), config], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        url = SecretStr(f"redis://127.0.0.1:{port}/0")
        wait_until(lambda: Address(port, "").answers(), what="the server answering")
        finding = examine(None, url)["restart"]
    finally:
        process.kill()
        process.wait()
    assert (finding.level, "no command called XADD" in finding.text) == (FAILURE, True)


def test_a_server_of_before_redis_7_loads_whatever_it_has_logged():
    class Old:
        def pipeline(self, **options):
            return contextlib.nullcontext(self)

        def execute_command(self, *words):
            pass

        def execute(self, raise_on_error):
            return [redis.ResponseError("Unknown subcommand or wrong number of arguments")] * len(LOGGED)

    assert examine_replay(Old(), Names()).level is OK


def test_a_broker_elsewhere_should_be_encrypted_and_its_users_narrow(server, admin, monkeypatch):
    monkeypatch.setattr(broker_checks, "_is_loopback", lambda host: False)
    found = examine(server)
    assert found["encryption"].level is WARNING
    assert found["rights"].level is WARNING
    assert "read other keys, read the configuration, list users" in found["rights"].text


def test_clocks_that_differ(server, admin, monkeypatch):
    now = time.time
    for offset, which in ((-60, "60 s behind"), (3600, "3600 s ahead of")):
        monkeypatch.setattr(broker_checks.time, "time", lambda offset=offset: now() + offset)
        finding = examine(server)["clock"]
        assert finding.level is WARNING
        assert which in finding.text


def test_an_old_server(server, admin, monkeypatch):
    checks = BrokerChecks(lambda: admin, server.address.url, Names())
    list(checks.broker())
    monkeypatch.setattr(redis.Redis, "info", lambda client, section: {"redis_version": "6.0.16"})
    (finding,) = checks.version()
    assert (finding.level, finding.fix) == (WARNING, "upgrade it to 7.0 or later")


def test_the_storage(tmp_path, monkeypatch):
    def found(url, **options):
        (finding,) = StorageChecks(url, **options).storage()
        return finding

    (tmp_path / "file").write_text("")
    assert (found(str(tmp_path)).level, "ltx storage init" in found(str(tmp_path)).fix) == (FAILURE, True)
    for url in (str(tmp_path), f"memory://{tmp_path}"):
        made(url)
    assert found(str(tmp_path)).level is OK
    assert found(f"memory://{tmp_path}").text == f"memory://{tmp_path} can be written"
    assert found(None).level is FAILURE
    assert "mount the farm's share" in found(str(tmp_path / "share")).fix
    assert not (tmp_path / "share").exists()
    assert found(str(tmp_path / "own"), is_coming=True).level is OK
    assert not (tmp_path / "own").exists()
    assert found(str(tmp_path / "file" / "x")).level is FAILURE
    assert found("nonsense://x").level is FAILURE
    usage = namedtuple("usage", "total used free")
    for free, level in ((10**8, FAILURE), (10**9, WARNING), (10**11, OK)):
        monkeypatch.setattr(storage_checks.shutil, "disk_usage", lambda folder, free=free: usage(0, 0, free))
        assert found(str(tmp_path)).level is level


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on():
    def bad():
        yield Finding("one", WARNING, "x", "y")
        raise ZeroDivisionError("oops")

    def good():
        yield Finding("two", OK, "z")

    found = list(run_checks([bad, good]))
    assert [(finding.about, finding.level) for finding in found] == [("one", WARNING), ("bad", FAILURE), ("two", OK)]
    assert "ZeroDivisionError: oops" in found[1].text
    assert worst(found) is FAILURE
    assert worst([]) is OK


@pytest.fixture
def doctor(server, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text(server.address.password + "\n")
    secret.chmod(0o600)
    made(tmp_path / "store")
    config = tmp_path / "config.toml"
    config.write_text(
        f'farm = "studio"\n[farms.studio]\nbroker_url = "redis://127.0.0.1:{server.address.port}/0"\n'
        f'broker_password_file = "{secret}"\nstorage_url = "{tmp_path / "store"}"\nhome = "{tmp_path / "home"}"\n'
    )
    config.chmod(0o600)
    monkeypatch.setenv("LTX_CONFIG", str(config))
    for name in ("LTX_BROKER_URL", "LTX_STORAGE_URL", "LTX_HOME", "LTX_FARM"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments, code=0):
        for form in ([], ["--json"]):
            done = CliRunner().invoke(main, [*arguments, "doctor", *form])
            assert done.exit_code == code, done.output
            assert server.address.password not in done.output
            assert "Traceback" not in done.output
        return [tuple(finding.values()) for finding in json.loads(done.stdout)]

    return run


def about(findings, name):
    return [(level, text, fix) for what, level, text, fix in findings if what == name]


def test_the_command(doctor, server, admin, tmp_path):
    (workers,) = about(doctor(), "workers")
    assert workers[0] == "warning"
    info = WorkerInfo(
        id="w1",
        name="attic",
        chip="M2",
        memory=1,
        budget_gb=1,
        variant="pocket",
        version="0.0.1",
        started_at=0,
        seen_at=0,
        state="paused",
        why_paused="its GPU is gone",
    )
    admin.hset(Names().worker("w1"), mapping=info.fields())
    admin.zadd("ltx:workers", {"w1": time.time() + 60})
    found = doctor()
    assert [level for level, *_ in about(found, "workers")] == ["ok", "warning", "warning"]
    assert "attic has ltx-farm 0.0.1" in about(found, "workers")[1][1]
    assert about(found, "workers")[2][2].startswith("ltx-worker resume")
    (tmp_path / "secret").chmod(0o644)
    assert ("chmod 600 '" + str(tmp_path / "secret") + "'") in [fix for *_, fix in about(doctor(), "configuration")]
    shutil.rmtree(tmp_path / "store")
    assert about(doctor(code=1), "storage")[0][0] == "failure"


def test_the_command_without_a_broker_there(doctor, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(config.read_text() + '[farms.gone]\nbroker_url = "redis://:pw@127.0.0.1:1/0"\n')
    found = doctor("--farm", "gone", code=1)
    assert [what for what, level, *_ in found if level == "failure"] == ["broker", "storage"]
    assert "Connection refused" in about(found, "broker")[0][1]
    assert not about(found, "workers")


def test_the_command_for_this_machine_alone(doctor, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = doctor("--farm", "local", code=1)
    assert about(found, "own farm")[0][0] == "failure"
    assert "pip install" in about(found, "own farm")[0][2]
