"""Test that no secret, wherever it is given, is shown or stored by any command that uses it."""

import json
import os
import stat
import traceback
from unittest import mock
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from s3fs import S3FileSystem

from ltx_client.cli import main
from ltx_client.errors import FarmError
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol import events
from ltx_client.protocol.names import Names
from ltx_client.protocol.redaction import hide_url_secrets
from ltx_client.protocol.state import Snapshot, Stage, Status
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.storage.store import Storage
from ltx_client.terminal import notify
from ltx_models.request import GenerationRequest
from ltx_worker.cli import main as worker_main

SECRET = "hush-7f3c"
CLOSED = "127.0.0.1:1"
NAMES = Names()
DONE = "0000-done"

BROKERS = {
    "user and password": f"redis://ann:{{}}@{CLOSED}/0",
    "password only": f"redis://:{{}}@{CLOSED}/0",
    "TLS": f"rediss://ann:{{}}@{CLOSED}/0",
    "in the query": f"redis://{CLOSED}/0?password={{}}&username=ann",
    "of a socket": "unix://ann:{}@/nowhere.sock",
    "in a socket's query": "unix:///nowhere.sock?password={}",
    "with #": f"redis://ann:1#{{}}@{CLOSED}/0",
    "with # after a port": f"redis://:1#{{}}@{CLOSED}/0",
    "with /": f"redis://ann:1/{{}}@{CLOSED}/0",
    "with ?": f"redis://ann:a?{{}}@{CLOSED}/0",
    "with @": f"redis://ann:a@{{}}@{CLOSED}/0",
    "with [": f"redis://ann:a[{{}}@{CLOSED}/0",
    "with ]": f"redis://ann:{{}}]@{CLOSED}/0",
    "with %": f"redis://ann:100%{{}}@{CLOSED}/0",
    "with a space": f"redis://ann:a {{}}@{CLOSED}/0",
    "with a line break": f"redis://ann:a\n{{}}@{CLOSED}/0",
    "of another scheme": f"http://ann:{{}}@{CLOSED}/0",
    "without a scheme": f"ann:{{}}@{CLOSED}",
    "with an invalid port": "redis://ann:{}@127.0.0.1:port/0",
    "in an unknown option": f"redis://ann:{{}}@{CLOSED}/0?hush={{}}",
    "as an option's value": f"redis://ann:x@{CLOSED}/0?socket_timeout={{}}",
    "of a host that is none": "redis://ann:{}@nowhere.invalid:1/0",
    "as the port": "redis://ann:{}",
}
STORAGES = {
    "S3": "s3://KEY:{}@bucket/videos",
    "S3 with #": "s3://KEY:a#{}@bucket",
    "S3 with /": "s3://KEY:a/{}@bucket",
    "S3's name": "s3://{}@bucket",
    "a cache": "simplecache::s3://KEY:{}@bucket/videos",
    "HTTP": f"http://ann:{{}}@{CLOSED}/videos",
    "a token": f"http://{CLOSED}/videos?token={{}}",
    "a signed link": f"http://{CLOSED}/videos?X-Amz-Credential=k&X-Amz-Signature={{}}",
    "a fragment": f"http://{CLOSED}/videos#{{}}",
    "an archive": f"zip://x.zip::http://ann:{{}}@{CLOSED}/a.zip?token={{}}",
    "FTP": f"ftp://ann:{{}}@{CLOSED}/videos",
    "memory": "memory://ann:{}@host/videos",
    "an unknown scheme": "nosuch://ann:{}@host/videos",
    "an unknown chain": "nosuch::zip://ann:{}@host/videos",
    "a bracket": "http://ann:[{}@host/videos",
    "an invalid port": "http://ann:{}@host:port/videos",
    "a line break": "s3://KEY:a\n{}@bucket",
}
VARIABLES = {
    "AWS_SECRET_ACCESS_KEY": "{}",
    "AWS_SESSION_TOKEN": "{}",
    "LTX_NOTIFY_SECRET": "{}",
    "HF_TOKEN": "{}",
    "HF_ENDPOINT": f"http://ann:{{}}@{CLOSED}",
    "HTTP_PROXY": f"http://ann:{{}}@{CLOSED}",
    "https_proxy": f"http://ann:{{}}@{CLOSED}",
    "AWS_ENDPOINT_URL": f"http://ann:{{}}@{CLOSED}",
}

CLIENT = (
    ["jobs"],
    ["jobs", "--json"],
    ["show", DONE],
    ["show", DONE, "--json"],
    ["download", DONE, "-o", "{folder}/x.mp4"],
    ["submit", "a red ball", "--image", "{picture}"],
    ["gc", "--older-than", "1h", "--dry-run"],
    ["storage", "check"],
    ["storage", "init"],
    ["storage", "check", "{storage}"],
    ["doctor"],
    ["doctor", "--json"],
    ["config", "show"],
    ["config", "show", "--json"],
)
FAILING = (["jobs"], ["workers", "--json"], ["doctor"], ["config", "show"], ["submit", "a red ball"], ["watch"])
WORKER = (["start"], ["install", "--dry-run", "--platform", "linux"], ["install", "--dry-run", "--platform", "darwin"])


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    folder = FarmFolder(tmp_path_factory.mktemp("broker"))
    folder.create()
    server = Server(folder)
    with server.address.connect() as client:
        client.config_set("appendonly", "no")
        job, _ = prepare(GenerationRequest(prompt="a red ball", num_steps=4, seed=1), job_id=DONE)
        ClientLedger(client, NAMES).submit(job)
        result = events.Result(video=f"{DONE}.1.mp4", sidecar="s", size=1, sha256="0")
        state = Snapshot(status=Status.DONE, stage=Stage.ENDED, result=result, ended_at=1.7e9)
        client.hset(NAMES.state(DONE), mapping={"status": "done", "snapshot": state.model_dump_json()})
        link = f"http://{CLOSED}/videos/{DONE}.1.mp4?expires=1&signature={SECRET}"
        client.hset(NAMES.result(DONE), "files", json.dumps({**result.model_dump(), "link": link}))
    yield server
    server.stop()


@pytest.fixture
def env(broker, tmp_path, clean_env):
    Storage(str(tmp_path / "storage")).init()
    away = {"AWS_ENDPOINT_URL": f"http://{CLOSED}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    return {
        **clean_env,
        **away,
        "LTX_BROKER_URL": broker.address.url.get_secret_value(),
        "LTX_STORAGE_URL": str(tmp_path / "storage"),
        "LTX_HOME": str(tmp_path / "home"),
        "LTX_WORKER_FILES_URL": f"https://ann:{SECRET}@videos.studio/mac-1",
    }


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    """Answer once for what does not answer."""
    monkeypatch.setattr(S3FileSystem, "retries", 1)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    return path


def assert_hidden(what, text):
    for form in (SECRET, quote(SECRET, safe=""), SECRET.encode().hex()):
        at = text.find(form)
        assert at < 0, f"{what}: the secret is in {text[max(0, at - 300) : at + 50]!r}"


def run(program, arguments, env, tmp_path, picture):
    words = [word.replace("{folder}", str(tmp_path)).replace("{picture}", str(picture)) for word in arguments]
    words = [word.replace("{storage}", env.get("LTX_STORAGE_URL", "")) for word in words]
    with mock.patch.dict(os.environ, env, clear=True), mock.patch("ltx_worker.commands.start.logging.basicConfig"):
        done = CliRunner().invoke(program, words)
    assert_hidden(arguments, done.output)
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
    left = [path for folder in ("home", "storage") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    for path in left:
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            assert_hidden(path, path.read_bytes().decode(errors="replace"))
    return done


@pytest.mark.parametrize("kind", BROKERS)
def test_a_brokers_password(kind, env, tmp_path, picture):
    given = {**env, "LTX_BROKER_URL": BROKERS[kind].replace("{}", SECRET)}
    codes = {run(main, arguments, given, tmp_path, picture).exit_code for arguments in FAILING}
    for arguments in WORKER if codes == {2} else WORKER[1:]:  # it waits for a broker that is away
        run(worker_main, arguments, given, tmp_path, picture)


@pytest.mark.parametrize("where", ["LTX_BROKER_PASSWORD_FILE", "wrong for the broker"])
def test_a_password_that_is_refused(where, broker, env, tmp_path, picture):
    url = f"redis://127.0.0.1:{broker.address.port}/0"
    if where == "LTX_BROKER_PASSWORD_FILE":
        file = tmp_path / "password"
        file.write_text(SECRET)
        given = {**env, "LTX_BROKER_URL": url, where: str(file)}
    else:
        given = {**env, "LTX_BROKER_URL": url.replace("127", f":{SECRET}@127")}
    for arguments in FAILING:
        done = run(main, arguments, given, tmp_path, picture)
    assert done.exit_code == 69
    run(worker_main, ["start"], given, tmp_path, picture)


@pytest.mark.parametrize("kind", STORAGES)
def test_a_storages_key(kind, env, tmp_path, picture):
    given = {**env, "LTX_STORAGE_URL": STORAGES[kind].replace("{}", SECRET)}
    for arguments in CLIENT:
        run(main, arguments, given, tmp_path, picture)
    for arguments in WORKER[1:] if kind == "memory" else WORKER:
        run(worker_main, arguments, given, tmp_path, picture)


@pytest.mark.parametrize("proxy", [False, True])
def test_what_other_variables_hold(proxy, env, tmp_path, picture, monkeypatch):
    monkeypatch.setattr(notify, "WAIT", 0)
    given = {**env, "LTX_STORAGE_URL": f"s3://{SECRET}/x"}
    given |= {
        name: value.replace("{}", SECRET) for name, value in VARIABLES.items() if ("proxy" in name.lower()) is proxy
    }
    given |= {"LTX_MODELS_DIR": str(tmp_path / "models"), "HF_HOME": str(tmp_path / "hf")}
    for arguments in (*CLIENT, ["watch", DONE, "--notify", f"http://{CLOSED}/x"]):
        run(main, arguments, given, tmp_path, picture)
    for arguments in WORKER:
        run(worker_main, arguments, given, tmp_path, picture)


@pytest.mark.parametrize(
    "url",
    [
        f"http://{CLOSED}/services/{{}}",
        f"http://ann:{{}}@{CLOSED}/x",
        f"http://{CLOSED}/x?key={{}}",
        f"ftp://{CLOSED}/{{}}",
        "http://[{}",
        "http://{}:port/",
    ],
)
def test_a_webhook(url, env, tmp_path, picture, monkeypatch):
    monkeypatch.setattr(notify, "WAIT", 0)
    config = tmp_path / "config.toml"
    url = url.replace("{}", SECRET)
    for arguments in (
        ["watch", DONE, "--notify", url],
        ["config", "set", "defaults.notify", url],
        ["config", "show"],
        ["config", "show", "--json"],
        ["render", "x", "--id", DONE],
    ):
        run(main, arguments, {**env, "LTX_CONFIG": str(config), "LTX_FARM": "studio"}, tmp_path, picture)
    assert SECRET in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["storage_url", "broker_url"])
@pytest.mark.parametrize("url", ["redis://ann:{}@h:1/0", "redis://ann:1#{}@h:1/0", "s3://KEY:{}@b", "x::s3://KEY:{}@b"])
def test_the_configuration(url, key, env, tmp_path, picture):
    config = tmp_path / "config.toml"
    given = {name: value for name, value in env.items() if name not in ("LTX_BROKER_URL", "LTX_STORAGE_URL")}
    given |= {"LTX_CONFIG": str(config), "LTX_FARM": "studio"}
    for arguments in (
        ["config", "set", key, url.replace("{}", SECRET)],
        ["config", "show"],
        ["config", "show", "--json"],
    ):
        run(main, arguments, given, tmp_path, picture)
    config.write_text(f"[farms.studio]\n{key} = '{url.replace('{}', SECRET)}'\nwrong = 1\n")
    for arguments in (["config", "show"], ["jobs"], ["config", "set", key, "x"]):
        run(main, arguments, given, tmp_path, picture)


@pytest.mark.parametrize("kind", STORAGES)
def test_what_a_program_sees_of_an_error_with_all_its_causes(kind, broker, env, tmp_path):
    """The program uses the library, and prints a traceback."""
    with mock.patch.dict(os.environ, {**env, "LTX_STORAGE_URL": STORAGES[kind].replace("{}", SECRET)}, clear=True):
        try:
            with Farm() as farm:
                farm.download(DONE, tmp_path / "x")
        except (FarmError, ValidationError):
            trace = traceback.format_exc()
    assert_hidden(kind, trace)


def test_nothing_secret_reaches_the_broker():
    """Whatever a library's error says: every client reads what a worker writes."""
    url = f"s3://KEY:{SECRET}@bucket"
    hide_url_secrets(url)
    for said in (f"cannot write to {url}", f"Invalid bucket name KEY:{SECRET}@bucket", f"?token={SECRET}"):
        for kind in (events.Failed, events.Released, events.Delayed, events.Loading, events.Resumed):
            values = {"error": said, "reason": said, "message": said, "fraction": 0, "step": 0}
            values = {name: value for name, value in values.items() if name in kind.model_fields}
            assert_hidden(kind, kind(**values).model_dump_json())
        base = {"id": "w", "name": "w", "chip": "c", "memory": 1, "budget_gb": 1, "variant": "v", "version": "1"}
        info = WorkerInfo(**base, started_at=1, seen_at=1).model_copy(update={"failure": said, "why_paused": said})
        assert_hidden("a worker", str(info.fields()))
