"""Test every command on a farm on which an attacker has written every text: none of it is raw on the terminal."""

import contextlib
import itertools
import json
import os
import re
import typing
from types import UnionType
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from ltx_client.cli import main
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.jobs.views import Update
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol import events
from ltx_client.protocol.jobs import Job, Relations, UnreadableJob, parse_job
from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Snapshot, Stage, Status
from ltx_client.protocol.validation import READING
from ltx_client.protocol.workers import PAUSED, ThreadInfo, WorkerInfo
from ltx_client.shared.storage.store import Storage
from ltx_client.terminal import notify
from ltx_models.request import GenerationRequest
from ltx_worker.cli import main as worker_main

NAMES = Names()
HOSTILE = {
    "ESC": "\x1b[45;93;5mEVIL",
    "OSC": "\x1b]52;c;RVZJTA==\x07EVIL",
    "CSI": "\x1b[2J\x1b[1;1HEVIL",
    "C1": "\x9b45;93;5mEVIL\x9d0;EVIL\x9c",
    "bidi": "\u202eEVIL\u2066\u200f",
    "newline": "x\nEVIL\r\nEVIL\x85EVIL\u2028EVIL",
    "controls": "x\x08\x0b\x0c\x7f\x00EVIL\ufeff\u200b",
    "surrogate": "\ud83dEVIL\udcff",
    "markup": "[red]EVIL[/red][/][link=file:///EVIL]",
}
OURS = re.compile(r"\x1b\[(?:\d+(?:;\d+)*)?[mABCDGHJK]|\x1b\[\?25[lh]|\r")
"""Styles, and how rich draws a bar anew."""
FOREIGN_STYLE = re.compile(r"\x1b\[45;93;5m|\x1b\[2J|\x1b\]|\x1b\[1;1H")
RAW = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
LINE = re.compile(r"(?m)^\W*EVIL")
QUEUED, RUNNING, FAILED, DONE, BROKEN = (f"0000000{number}-job" for number in range(5))
BATCH = "0000batch"
ENDED = {Status.FAILED: FAILED, Status.DONE: DONE}


def takes_text(annotation):
    """Return whether a field contains arbitrary strings."""
    if annotation is str:
        return True
    return typing.get_origin(annotation) in (UnionType, typing.Union, tuple, typing.Annotated) and any(
        takes_text(argument) for argument in typing.get_args(annotation)
    )


def poisoned(model, good, text, keep=()):
    """Return a good record with an attacker's text in every field in which a reader accepts it."""
    bad = json.loads(json.dumps(good))
    for name, field in model.model_fields.items():
        if name in keep or not takes_text(field.annotation):
            continue
        many = isinstance(bad.get(name), list)
        candidate = {**bad, name: [text] if many else text}
        try:
            model.model_validate(candidate, context=READING, strict=False)
        except ValidationError:
            continue
        bad = candidate
    return bad


def raw_json(data):
    """Return JSON as an attacker would write it, in UTF-8 where that is possible."""
    return json.dumps(data, ensure_ascii=True).encode()


def plant(client, text, storage):
    """Write a farm's records with this text in every possible place."""
    text_bytes = text.encode(errors="replace")
    good, _ = prepare(GenerationRequest(prompt="a red ball", num_steps=4, seed=1), job_id="x")
    submitted = itertools.count(1_700_000_000_000)

    def job(job_id, status, **state):
        spec = poisoned(Job, good.model_dump(mode="json"), text, keep=("id", "variant")) | {"id": job_id}
        for name in ("prompt", "negative_prompt"):
            with contextlib.suppress(UnreadableJob):
                parse_job(raw_json(spec | {"request": spec["request"] | {name: text}}))
                spec["request"][name] = text
        relations = poisoned(Relations, {"not_on": [], "batch": BATCH, "item": int(job_id[7]) + 1}, text)
        snapshot = poisoned(Snapshot, {**Snapshot().model_dump(mode="json"), "status": status, **state}, text)
        at = next(submitted)
        record = {"spec": raw_json(spec), "submitted_at": at, "links": raw_json(relations)}
        client.hset(NAMES.job(job_id), mapping=record)
        client.hset(NAMES.state(job_id), mapping={"status": status, "snapshot": raw_json(snapshot)})
        client.zadd(NAMES.jobs(), {job_id: at})
        client.zadd(NAMES.batch_jobs(BATCH), {job_id: int(job_id[7]) + 1})

    result = poisoned(events.Result, {"video": "v", "sidecar": "s", "size": 1, "sha256": "0"}, text)
    times = {"started_at": 1.7e9, "ended_at": 1.7e9 + 9, "attempt": 1, "step": 2, "steps": 4, "step_seconds": 1.0}
    job(QUEUED, "queued")
    job(RUNNING, "running", stage=Stage.LOADING, **times)
    job(FAILED, "failed", seq=99, stage=Stage.ENDED, **times)
    job(DONE, "done", seq=99, stage=Stage.ENDED, result=result, **times)
    client.hset(NAMES.result(DONE), "files", raw_json({**result, "link": f"http://127.0.0.1:1/{text}"}))
    job(BROKEN, "queued")
    client.hset(NAMES.job(BROKEN), "spec", raw_json({text: text}))
    client.zadd(NAMES.jobs(), {text_bytes: 1})
    client.hset(NAMES.job(text_bytes.decode()), mapping={"spec": text_bytes, "submitted_at": 1})
    for job_id in ENDED.values():
        for number, kind in enumerate(event_types(), 1):
            example = poisoned(kind, {**EXAMPLES[kind], "type": kind.model_fields["type"].default}, text)
            if kind is events.Done:
                example["result"] = result
            client.xadd(NAMES.events(job_id), {"event": raw_json(example)}, id=f"{number}-0")
    client.hset(NAMES.batch(BATCH), mapping={"name": text_bytes, "submitter": text_bytes, "submitted_at": "1.7e9"})
    client.zadd(NAMES.batches(), {BATCH: 1, text_bytes: 2})
    plant_workers(client, text, text_bytes)
    (storage / "inputs").mkdir(parents=True, exist_ok=True)


def plant_workers(client, text, text_bytes):
    about = {"memory": 1e10, "budget_gb": 8, "started_at": 1.7e9, "seen_at": 1.7e9, "failed_at": 1.7e9, "protocol": 1}
    fields = {name: text_bytes for name, field in WorkerInfo.model_fields.items() if takes_text(field.annotation)}
    thread = {"name": "leases", "errors": 1, "error": "", "error_at": 1.7e9, "failing": True}
    fields["threads"] = raw_json([poisoned(ThreadInfo, thread, text)])
    states = {"one": PAUSED.encode(), "two": text_bytes}
    for worker_id, state in states.items():
        known = {"temperature": ""} if worker_id == "two" else {}
        client.hset(NAMES.worker(worker_id), mapping={**about, **fields, **known, "state": state})
    client.hset(NAMES.worker("cut"), mapping={"name": text_bytes, text_bytes: text_bytes})
    client.zadd(NAMES.workers(), {"one": 1, "two": 1, "cut": 1, text_bytes: 1})
    pause = poisoned(
        Pause, {"of": "queue", "id": "pocket", "name": "pocket", "by": "x", "at": 1.7e9}, text, keep=["of", "id"]
    )
    client.hset(NAMES.paused(), mapping={"queue:pocket": raw_json(pause), b"worker:\xff" + text_bytes: text_bytes})


def event_types():
    return typing.get_args(events.Event)


EXAMPLES = {
    events.Claimed: {"attempt": 1, "worker": "w", "worker_name": "w"},
    events.Loading: {"fraction": 0.5, "message": ""},
    events.TextEncoded: {},
    events.StageBegan: {"stage": ""},
    events.Progress: {"stage": "", "done": 1, "seconds": 1},
    events.Stepped: {"step": 1, "steps": 4, "seconds": 1},
    events.Previewed: {"step": 1},
    events.Decoded: {"frames": 9},
    events.Uploading: {"size": 9},
    events.Delayed: {"reason": ""},
    events.Done: {},
    events.Failed: {"error": ""},
    events.Cancelled: {},
    events.Resumed: {"step": 0, "reason": ""},
    events.Released: {"reason": ""},
}
LISTED = ([], ["--json"])
RUNS = {
    "jobs": (*LISTED, ["--batch", BATCH], ["--batch", "{}"]),
    "batches": LISTED,
    "show": ([QUEUED, "--json"], [QUEUED], [RUNNING], [FAILED], [DONE], [BROKEN], ["{}"], [DONE, "--preview", "{}"]),
    "logs": ([FAILED], [DONE, "--json"], ["{}"]),
    "watch": ([], [FAILED], [QUEUED, RUNNING, DONE], ["--json"], [DONE, "--notify", "http://127.0.0.1:1/{}"]),
    "download": ([DONE, "-o", "{folder}/{}"], [FAILED], ["--batch", BATCH, "-o", "{folder}"], ["{}"]),
    "cancel": ([FAILED], ["{}"]),
    "pause": ([FAILED], ["--worker", "{}"], ["--worker", "one"], ["--queue", "{}"]),
    "resume": ([FAILED], ["--worker", "{}"], ["--worker", "one"], ["--queue", "{}"]),
    "retry": ([FAILED, "{}"], ["--batch", "{}"]),
    "priority": ([FAILED, "1"], ["{}", "1"], [FAILED, "{}"]),
    "workers": LISTED,
    "stats": LISTED,
    "gc": (["--older-than", "1h", "--dry-run"], ["--older-than", "{}"]),
    "doctor": LISTED,
    "render": (
        ["{}", "--dry-run"],
        ["x", "--not-on", "{}"],
        ["x", "-o", "{}/x"],
        ["x", "--image", "{}"],
        ["x", "--{}"],
    ),
    "submit": (
        ["{}", "--dry-run"],
        ["x", "--not-on", "{}"],
        ["x", "--after", "{}"],
        ["x", "--id", "{}"],
        ["x", "-v", "{}"],
    ),
    "batch": (["{file}"], ["{folder}/{}"], ["{file}", "--seeds", "{}"], ["{named}", "--dry-run"]),
    "config path": ([],),
    "config show": LISTED,
    "config set": (["storage_url", "{}"], ["{}", "x"], ["defaults.notify", "{}"]),
    "storage init": (["{}"], ["{folder}/{}"]),
    "storage check": ([], ["{}"], ["s3:/{}"]),
    "models list": LISTED,
    "models verify": (["{}"],),
    "models download": (["{}"],),
    "models convert": (["--{}"],),  # and below, for it starts a process
    "bench model": (["-v", "{}"], ["--plot", "{}/x"]),
    "bench farm": (["--plot", "{}/x"],),
    "up": (["-v", "{}"], ["--{}"]),
}
WORKERS_RUNS = {
    "start": (["-v", "{}"], ["--log-level", "{}"], ["--env-file", "{}"], []),
    "status": ([],),
    "stop": ([],),
    "drain": ([],),
    "resume": ([],),
    "doctor": (["-v", "{}"], ["--env-file", "{}"]),
    "install": (["--dry-run", "--user", "{}"], ["-v", "{}"]),
    "uninstall": (["{}"],),
    "logs": (["-n", "{}"],),
}


def leaves(group, *path):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield " ".join((*path, name))


@pytest.mark.parametrize(("program", "runs"), [(main, RUNS), (worker_main, WORKERS_RUNS)])
def test_no_command_is_left_out(program, runs):
    assert set(leaves(program)) == set(runs)


def test_no_event_is_left_out():
    assert set(event_types()) == set(EXAMPLES)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    folder = FarmFolder(tmp_path_factory.mktemp("broker"))
    folder.create()
    server = Server(folder)
    with server.address.connect() as client:
        client.config_set("appendonly", "no")
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """Run in a folder of the test's own, since a home that is a relative path is made in the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def env(broker, tmp_path, clean_env):
    Storage(str(tmp_path / "storage")).init()
    return {
        **clean_env,
        "LTX_BROKER_URL": broker.address.url.get_secret_value(),
        "LTX_STORAGE_URL": str(tmp_path / "storage"),
        "LTX_HOME": str(tmp_path / "home"),
        "TERM": "xterm-256color",
    }


@pytest.fixture
def as_it_stands(monkeypatch):
    """Let `ltx watch` show the current state and end."""

    def watch(farm, *ids):
        for job_id in ids:
            view = farm.view(job_id)
            yield from farm.log(job_id)
            yield Update(None, view.snapshot, view)

    monkeypatch.setattr(Farm, "watch", watch)
    monkeypatch.setattr(notify, "WAIT", 0)


def assert_clean(shown, what):
    found = FOREIGN_STYLE.search(shown) or RAW.search(OURS.sub("", shown))
    assert not found, f"{what}: {found[0]!r} in {shown[max(0, found.start() - 200) : found.end() + 50]!r}"


def run(program, words, env, *, terminal):
    settings = {**env, "FORCE_COLOR": "1"} if terminal else env
    with mock.patch.dict(os.environ, settings, clear=True):
        done = CliRunner().invoke(program, words, color=True)
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    return done


@pytest.mark.parametrize("terminal", [False, True], ids=["plain", "terminal"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_command_shows_it_raw(kind, terminal, broker, env, tmp_path, as_it_stands):
    text = HOSTILE[kind]
    name = text.replace("/", "|").replace("\0", "").encode("utf-8", "replace").decode()
    named, file = tmp_path / f"{name}.txt", tmp_path / "lines.jsonl"
    named.write_text("a red ball\n")
    file.write_text("\n".join(json.dumps(line) for line in ({text: 1}, {"prompt": text, "width": text}, [text])))
    words = {"{}": as_argument(text), "{file}": str(file), "{named}": str(named), "{folder}": str(tmp_path)}
    shown_at_all = ""
    with broker.address.connect() as client:
        for path, runs in RUNS.items():
            for arguments in runs:
                client.flushall()
                plant(client, text, tmp_path / "storage")
                given = [_filled(argument, words) for argument in arguments]
                done = run(main, [*path.split(), *given], env, terminal=terminal)
                shown = done.output_bytes.decode("utf-8", "surrogateescape")
                assert_clean(shown, f"ltx {path} {arguments}")
                assert terminal or kind != "newline" or not LINE.search(shown), (
                    f"ltx {path} {arguments}: a line is forged in {shown!r}"
                )
                if "--json" in arguments and done.stdout.startswith("["):
                    json.loads(done.stdout)
                shown_at_all += shown
    assert shown_at_all.count("EVIL") > 50  # it is shown, and not left out


def as_argument(text):
    """Return the text as a command line can contain it: without NUL, and only with surrogates that stand for bytes."""
    return text.replace("\0", "").replace("\ud83d", "")


def _filled(argument, words):
    for name, value in words.items():
        argument = argument.replace(name, value)
    return argument


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_command_of_a_worker_shows_it_raw(kind, env, tmp_path):
    text = HOSTILE[kind]
    variable = text.replace("\0", "").encode("utf-8", "replace").decode()
    given = {**env, "LTX_WORKER_NAME": variable, "LTX_WORKER_HOURS": variable, "LTX_NAMESPACE": variable}
    for path, runs in WORKERS_RUNS.items():
        for arguments in runs:
            done = run(
                worker_main,
                [path, *(_filled(word, {"{}": as_argument(text)}) for word in arguments)],
                given,
                terminal=True,
            )
            assert_clean(done.output_bytes.decode("utf-8", "surrogateescape"), f"ltx-worker {path} {arguments}")


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in ("markup", "surrogate")])
@pytest.mark.parametrize(
    "variable", ["LTX_STORAGE_URL", "LTX_NAMESPACE", "LTX_HOME", "LTX_FARM", "LTX_CONFIG", "LTX_BROKER_CA"]
)
def test_no_setting_is_shown_raw(variable, kind, env):
    value = HOSTILE[kind].replace("\0", "")
    for arguments in (["config", "show"], ["config", "path"], ["jobs"], ["doctor"]):
        done = run(main, arguments, {**env, variable: value}, terminal=True)
        assert_clean(done.output_bytes.decode("utf-8", "surrogateescape"), f"{variable} in ltx {arguments}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_offered_for_completion(kind, shell, broker, env, tmp_path):
    asked = {
        "COMP_WORDS": "ltx pause --worker ",
        "COMP_CWORD": "3" if shell == "bash" else "",
        "_LTX_COMPLETE": f"{shell}_complete",
    }
    with broker.address.connect() as client:
        client.flushall()
        plant(client, HOSTILE[kind], tmp_path / "storage")
    for words in ("ltx pause --worker ", "ltx show ", "ltx jobs --batch "):
        asked |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()))}
        done = run(main, [], {**env, **asked}, terminal=False)
        shown = done.output_bytes.decode("utf-8", "surrogateescape")
        assert_clean(shown, words)
        assert not LINE.search(shown)


def test_what_a_process_of_ours_says_of_a_file_is_not_shown_raw(env, tmp_path):
    text = "".join(HOSTILE.values()).replace("/", "|").replace("\0", "").encode("utf-8", "replace").decode()
    folder = tmp_path / text
    folder.mkdir()
    done = run(main, ["models", "convert", str(folder), str(tmp_path / "x")], env, terminal=True)
    assert done.exit_code == 2
    assert "EVIL" in done.stderr
    assert_clean(done.output, "ltx models convert")
