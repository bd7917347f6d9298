"""What `--json` prints, an index says and a webhook gets, byte for byte as recorded; the module that makes it."""

import ast
import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from pydantic import SecretStr, TypeAdapter
from typing_extensions import is_typeddict

from ltx_client.cli import main
from ltx_client.farm import describe
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.inputs import ClipPart
from ltx_client.protocol.events import CutText, Result
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Snapshot, Stage, Status
from ltx_client.protocol.workers import ThreadInfo, WorkerInfo
from ltx_client.terminal import notify

RECORDED = Path(__file__).parents[3] / "data" / "json"
REQUEST = re.compile(r'"request": \{.*?^ +\}(?=,\n +"state"|\n  \})', re.DOTALL | re.MULTILINE)
BATCH = "0199c0de-0000-7000-8000-00000000beef"
STEPS = {"started_at": 1_700_000_010.25, "updated_at": 1_700_000_040.5, "worker": "w-1", "worker_name": "mac-3"}
RAN = {**STEPS, "seq": 9, "attempt": 1, "step": 8, "steps": 8, "step_seconds": 1.5}
STATES = {
    "done": Snapshot(
        status=Status.DONE,
        stage=Stage.ENDED,
        ended_at=1_700_000_040.5,
        result=Result(
            video="done.1.ab.mp4",
            sidecar="done.1.ab.json",
            size=123_456,
            sha256="0f" * 32,
            poster="done.1.ab.jpg",
            poster_sha256="0e" * 32,
        ),
        cut=(CutText(text="prompt", tokens=300, read=256),),
        **RAN,
    ),
    "failed": Snapshot(status=Status.FAILED, stage=Stage.ENDED, ended_at=1_700_000_041.0, error="no reason", **RAN),
    "cancelled": Snapshot(status=Status.CANCELLED, stage=Stage.ENDED, seq=1, ended_at=1_700_000_042.0),
    "running": Snapshot(status=Status.RUNNING, stage=Stage.DENOISING, **{**RAN, "step": 3}),
    "asked": Snapshot(status=Status.RUNNING, stage=Stage.DENOISING, **{**RAN, "step": 4, "attempt": 2}),
    "waiting": Snapshot(),
    "later": Snapshot(),
    "paused": Snapshot(),
    "other": Snapshot(),
}
LINKS = {
    "done": Relations(batch=BATCH, item=1),
    "failed": Relations(batch=BATCH, item=2, retry_of="gone"),
    "waiting": Relations(batch=BATCH, item=3, not_on=("old-mac",)),
    "later": Relations(after_jobs=("waiting",), after_batches=(BATCH,)),
}
WORKERS = (
    WorkerInfo(
        id="w-1",
        name="mac-3",
        chip="Apple M2 Ultra",
        memory=64 * 10**9,
        budget_gb=48,
        variant="pocket",
        version="1.2",
        started_at=1_700_000_000.5,
        seen_at=1_700_000_050.0,
        temperature=48.5,
        thermal_pressure="nominal",
        threads=(ThreadInfo(name="leases", beat_at=1_700_000_049.0, errors=1, error="away", error_at=1.0),),
        features="clip-parts",
        storage="f00",
    ),
    WorkerInfo(
        id="w-2",
        name="ünïcode 🔴",
        chip="NVIDIA H200",
        memory=140 * 10**9,
        budget_gb=120.5,
        gpu_gb=24.25,
        variant="distilled",
        version="1.2",
        started_at=1_700_000_000.5,
        seen_at=1_700_000_050.0,
        state="paused",
        why_paused="the disk is full",
        failure="no \u202eroom",
        failed_job="failed",
        failed_at=1_700_000_041.0,
    ),
)
COMMANDS = {
    "jobs": ("jobs",),
    "jobs-of-a-batch": ("jobs", "--batch", BATCH),
    "jobs-mine": ("jobs", "--mine"),
    **{f"show-{name}": ("show", name) for name in STATES},
    "workers": ("workers",),
    "batches": ("batches",),
    "stats": ("stats",),
}
WEBHOOKS = {"webhook": tuple(STATES), "webhook-of-a-batch": ("done", "failed"), "webhook-of-one": ("failed",)}


@pytest.fixture
def farm(redis_client, names, client_ledger, make_job, monkeypatch):
    """With a job in each state, two workers and a queue that is paused, all at times that never change."""
    url = SecretStr("redis://localhost")
    monkeypatch.setattr(Farm, "connect", lambda *_, **__: Farm.over(redis_client, url, names, "/farm"))
    monkeypatch.setattr("ltx_client.terminal.notices.wait_reasons.tell_who_waits", lambda *_: None)
    monkeypatch.setattr("ltx_client.farm.jobs.prepare.submitter", lambda: "nobody@nowhere")
    for number, (job_id, snapshot) in enumerate(STATES.items()):
        job = make_job(id=job_id, variant="distilled" if job_id == "other" else "pocket", priority=number % 10)
        client_ledger.submit(job, LINKS.get(job_id, Relations()))
        at = 1_700_000_000_000 + number * 1000 + 125
        redis_client.hset(names.job(job_id), "submitted_at", at)
        redis_client.zadd(names.jobs(), {job_id: at})
        state = {"status": snapshot.status.value, "snapshot": snapshot.model_dump_json(), "attempt": snapshot.attempt}
        if snapshot != Snapshot():
            redis_client.hset(names.state(job_id), mapping=state)
    redis_client.set(names.lease("asked"), "w-1")
    redis_client.set(names.cancel("asked"), "1")
    redis_client.hset(names.job("paused"), "held", "1")
    redis_client.hset(names.job("waiting"), "priority", "2")
    redis_client.hset(
        names.batch(BATCH), mapping={"name": "shots.csv", "submitter": "me@here", "submitted_at": 1_700_000_000.125}
    )
    redis_client.zadd(names.batches(), {BATCH: 1_700_000_000.125})
    for worker in WORKERS:
        redis_client.hset(names.worker(worker.id), mapping=worker.fields())
        redis_client.zadd(names.workers(), {worker.id: 1.0})
    pause = Pause(of="queue", id="distilled", name="distilled", by="ann@desk", at=1_700_000_001.0)
    redis_client.hset(names.paused(), pause.field, pause.model_dump_json())
    return Farm.connect()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_what_it_always_printed(farm, name):
    done = CliRunner().invoke(main, [*COMMANDS[name], "--json"], catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    recorded(name, done.stdout)


def test_submit_prints_what_it_always_printed(farm, monkeypatch, tmp_path):
    """All but the time, which is when it was submitted."""
    monkeypatch.setattr("ltx_client.farm.jobs.prepare.submitter", lambda: "me@here")
    monkeypatch.setattr("ltx_client.farm.submit.publish", lambda *_: None)
    monkeypatch.setenv("LTX_BROKER_URL", "redis://localhost")
    words = ["submit", "a red ball rolls to the right", "--id", "new", "--seed", "1", "--json"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0
    recorded("submit", re.sub('("submitted_at": )[0-9.]+', r"\g<1>0", done.stdout))


def test_an_index_says_what_it_always_said(farm, monkeypatch, tmp_path):
    monkeypatch.setattr("ltx_client.terminal.downloading.fetch", lambda *_: None)
    done = CliRunner().invoke(main, ["download", "--batch", BATCH, "-o", str(tmp_path)], catch_exceptions=False)
    assert "2 of 3 videos of batch" in done.stderr
    recorded("index", (tmp_path / "index.json").read_text("utf-8"))


@pytest.mark.parametrize(("name", "ids"), WEBHOOKS.items())
def test_a_webhook_gets_what_it_always_got(farm, monkeypatch, name, ids):
    """In one line, as it is sent."""
    sent = []
    opener = SimpleNamespace(open=lambda request, timeout: contextlib.nullcontext(sent.append(request.data.decode())))
    monkeypatch.setattr(notify.urllib.request, "build_opener", lambda *_: opener)
    views = {view.job.id: view for view in farm.jobs()}
    assert notify.send_webhook("http://here/hook", [views[job_id] for job_id in ids]) is None
    (body,) = sent
    recorded(name, f"{body}\n")


def recorded(name, printed):
    """Requests are left out, to which fields are added at times."""
    assert REQUEST.sub('"request": {}', printed) == (RECORDED / f"{name}.json").read_text("utf-8")


def test_a_request_is_as_in_the_jobs_record(farm):
    for view in farm.jobs():
        assert describe.describe_job(view)["request"] == json.loads(view.job.model_dump_json())["request"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((describe.JobJson, name) for name in ("jobs", "submit", *(f"show-{state}" for state in STATES))),
        (describe.WorkerJson, "workers"),
        (describe.BatchJson, "batches"),
        (describe.StatsJson, "stats"),
        (describe.IndexEntryJson, "index"),
        *((describe.EndedJson, name) for name in WEBHOOKS),
    ],
)
def test_what_is_printed_is_of_its_type(kind, name):
    """With every field that the type has, no other, and in its order."""
    printed = json.loads((RECORDED / f"{name}.json").read_text("utf-8"))
    for row in printed if isinstance(printed, list) else [printed]:
        assert_type(row, kind)


def assert_type(row, kind):
    assert TypeAdapter(kind).validate_python(row, strict=True) == row
    names = [name for name in kind.__annotations__ if name in kind.__required_keys__]
    assert [name for name in row if name in kind.__required_keys__] == names


def test_each_of_the_other_types_is_what_a_record_says():
    state = json.loads((RECORDED / "show-done.json").read_text("utf-8"))["state"]
    assert_type(state, describe.StateJson)
    assert_type(state["result"], describe.ResultJson)
    assert_type(state["cut"][0], describe.CutTextJson)
    assert_type(json.loads((RECORDED / "workers.json").read_text("utf-8"))[0]["threads"][0], describe.ThreadJson)
    assert_type(json.loads((RECORDED / "show-waiting.json").read_text("utf-8"))["place"], describe.PlaceJson)
    assert_type(json.loads((RECORDED / "show-other.json").read_text("utf-8"))["queue_paused"], describe.PauseJson)
    assert_type(json.loads((RECORDED / "webhook.json").read_text("utf-8"))["jobs"][0], describe.EndedJobJson)
    assert_type(ClipPart("clip.mp4", 1.0, 2.0, 25, 0)._asdict(), describe.ClipJson)
    assert Relations.model_fields.keys() == describe.RelationsJson.__annotations__.keys()


def test_every_field_says_what_it_means():
    module = ast.parse(Path(describe.__file__).read_text("utf-8"))
    types = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    assert types.keys() == {name for name in describe.__all__ if is_typeddict(getattr(describe, name))}
    for name, node in types.items():
        fields = [number for number, line in enumerate(node.body) if isinstance(line, ast.AnnAssign)]
        assert all(number + 1 < len(node.body) and is_text(node.body[number + 1]) for number in fields), name


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
