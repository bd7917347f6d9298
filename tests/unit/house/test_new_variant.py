"""Test that a variant is a row: one that is added to the table is known everywhere, and nothing else names them."""

import ast
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ltx_client.cli import main as ltx
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.protocol.names import Names, queue_name
from ltx_client.shared.celery.celery_settings import queue_keys
from ltx_client.shared.doctor.checks import Level
from ltx_client.terminal.arguments.completion import complete_variants
from ltx_client.terminal.notices.vocabulary import vocabulary_note
from ltx_models.families.variants import DEFAULT_VARIANT, VARIANTS, find_variant
from ltx_models.memory import memory_class
from ltx_models.request import GenerationRequest
from ltx_worker.cli import main as ltx_worker
from ltx_worker.commands import doctor_checks
from ltx_worker.commands.doctor_checks import Machine
from ltx_worker.settings import WorkerSettings
from tests.integration.deploy.grants import matches, parse_users

ROOT = Path(__file__).parents[3]
ON_A_CPU = {"mlx": "1", "device": "cpu", "name": "", "working_set": 0}


@pytest.fixture(params=["toy", "toy-2.3"])
def toy(request, monkeypatch):
    """Add a further bundled variant to the table."""
    row = dataclasses.replace(
        find_variant("pocket"), name=request.param, aliases=("plaything",), description="a toy", is_default=False
    )
    monkeypatch.setitem(VARIANTS, row.name, row)
    return row


def test_commands_know_it(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert find_variant(toy.name) is find_variant("plaything") is toy
    listed = json.loads(CliRunner().invoke(ltx, ["models", "list", "--json"]).stdout)
    (row,) = (row for row in listed if row["name"] == toy.name)
    assert row["missing"] == [] and row["description"] == "a toy"
    assert toy.name in [item.value for item in complete_variants(None, None, "to")]


@pytest.mark.parametrize(
    ("vocabulary", "note"), [("shapes", 'knows shapes only: it does not know "cat", and may'), (None, None)]
)
def test_its_vocabulary_is_what_its_row_says(toy, monkeypatch, vocabulary, note):
    monkeypatch.setitem(VARIANTS, toy.name, dataclasses.replace(toy, vocabulary=vocabulary))
    said = vocabulary_note(toy.name, "a red cat")
    assert said is note or said.startswith(f"{toy.name} {note}")


@pytest.mark.parametrize(("needs_gpu", "level"), [(True, Level.WARNING), (False, Level.OK)])
def test_the_doctor_judges_a_cpu_by_its_row(toy, monkeypatch, tmp_path, needs_gpu, level):
    monkeypatch.setattr(
        doctor_checks.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=json.dumps(ON_A_CPU))
    )
    monkeypatch.setattr(doctor_checks, "output_of", lambda *_: "")
    monkeypatch.setattr(doctor_checks, "no_apple_silicon", lambda *_: None)
    monkeypatch.setattr(doctor_checks.sys, "platform", "linux")
    machine = Machine(WorkerSettings(home=tmp_path), dataclasses.replace(toy, needs_gpu=needs_gpu), quick=True)
    assert next(iter(machine.device())).level is level
    assert toy.name in next(iter(machine.memory())).text


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_service_holds_it(toy, platform):
    done = CliRunner().invoke(ltx_worker, ["install", "--variant", "plaything", "--dry-run", "--platform", platform])
    assert done.exit_code == 0, done.output
    assert toy.name in done.stdout and "plaything" not in done.stdout


@pytest.mark.parametrize("user", ["client", "worker"])
def test_users_of_a_broker_may_use_its_queues(toy, user):
    job = prepare(GenerationRequest(prompt="a red ball"), variant="plaything").job
    assert job.queue == queue_name(toy.name, memory_class(job.predicted_peak))
    grants = parse_users((ROOT / "deploy" / "users.acl.in").read_text())[user]
    for command in {"client": ("llen", "lpush"), "worker": ("llen", "lpush", "rpush", "brpop", "exists")}[user]:
        patterns = [pattern for grant in grants if command in grant.commands for _, pattern in grant.keys]
        for key in queue_keys(Names(), job.queue):
            assert any(matches(pattern, key) for pattern in patterns), (command, key)


def test_one_row_is_the_default():
    assert [row.name for row in VARIANTS.values() if row.is_default] == [DEFAULT_VARIANT]


def test_no_module_names_a_variant_but_the_table_and_the_bundled_models_own():
    """Such a name is a string in the code of the client, the worker or the models."""
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("ltx_client", "ltx_worker", "ltx_models")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in {*VARIANTS}
    ]
    own = ("ltx_models/families/variants.py", "ltx_models/pocket/", "ltx_models/self_test/clip.py")
    assert [place for place in named if not place.startswith(own)] == []
