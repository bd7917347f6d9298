"""Test that a worker that could serve nothing is refused at once, with what its variant needs."""

import os
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from ltx_client.cli import main
from ltx_client.errors import UsageError
from ltx_client.farm.watching import Watching
from ltx_client.local.keeper import Worker
from ltx_client.local.members import FarmFolder
from ltx_client.shared import memory_budget
from ltx_client.shared.memory_budget import ServesNothing, check_serves, why_too_much
from ltx_models.families.variants import VARIANTS, find_variant
from ltx_models.memory import GB, MEMORY_CLASSES, smallest_class
from ltx_worker.cli import main as worker_main
from ltx_worker.settings import WorkerSettings
from tests.storages import made

NEEDS = {"pocket": 1, "pocket-distilled": 1}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("LTX_") and name != "LTX_CONFIG"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_serves_from_its_smallest_class_on(name, monkeypatch):
    variant = find_variant(name)
    needed = smallest_class(variant)
    assert needed == NEEDS.get(name, needed) and needed in MEMORY_CLASSES and needed <= variant.ram_gb
    check_serves(variant, needed)
    for set_by_hand, advice in ((False, "use a machine with more memory"), (True, f"set it to {needed} or more")):
        if set_by_hand:
            monkeypatch.setenv("LTX_WORKER_MEMORY_GB", str(needed - 0.01))
        with pytest.raises(ServesNothing, match=f"{name} needs {needed} GB") as caught:
            check_serves(variant, needed - 0.01)
        assert advice in str(caught.value)
        assert ("these fit: pocket" in str(caught.value)) == (needed > 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_serves_a_variant_has_a_queue_for_it(name):
    needed = smallest_class(find_variant(name))
    assert needed in WorkerSettings(worker_memory_gb=needed).memory_classes


@pytest.mark.parametrize(
    ("command", "broker"),
    [
        (["start"], True),
        (["render", "a red ball"], False),
        (["submit", "a red ball"], False),
        (["batch", "-"], False),
        (["up"], False),
    ],
)
def test_every_way_to_start_one_refuses_it(command, broker, home, tmp_path, monkeypatch):
    monkeypatch.setenv("LTX_WORKER_MEMORY_GB", "0.5")
    if broker:
        monkeypatch.setenv("LTX_BROKER_URL", "redis://127.0.0.1:1/0")
        monkeypatch.setenv("LTX_STORAGE_URL", str(made(tmp_path / "storage").local_folder))
    done = CliRunner().invoke(worker_main if broker else main, command, input="a red ball\n")
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1] == (
        "Error: LTX_WORKER_MEMORY_GB is 0.5, and the smallest render of pocket needs 1 GB; set it to 1 or more"
    )
    assert not home.exists(), "nothing was queued or started"


def test_both_doctors_say_it(monkeypatch):
    monkeypatch.setenv("LTX_WORKER_MEMORY_GB", "0.5")
    done = CliRunner().invoke(main, ["doctor"])
    assert "the smallest render of pocket needs 1 GB" in done.output and done.exit_code == 1


@pytest.mark.lane("unit")
def test_a_worker_that_refuses_its_settings_is_not_waited_for(home, monkeypatch):
    """The keeper would start it again for ever, and a render wait."""
    monkeypatch.setenv("LTX_WORKER_LEASE", "abc")
    folder = FarmFolder(home)
    folder.create()
    reading, writing = os.pipe()
    worker = Worker(
        folder, SimpleNamespace(url=SecretStr("redis://127.0.0.1:1/0")), home, SimpleNamespace(handle=writing)
    )
    deadline = time.monotonic() + 60
    while not folder.why_refused() and time.monotonic() < deadline:
        worker.ensure(["pocket"])
        time.sleep(0.05)
    assert "LTX_WORKER_LEASE is 'abc'; it must be a number of seconds" in folder.why_refused()
    monkeypatch.setattr(FarmFolder, "is_kept", lambda self: True)
    farm = SimpleNamespace(embedded=folder, closed=False)
    with pytest.raises(
        UsageError, match="this machine's worker does not start: the settings are invalid: LTX_WORKER_LEASE"
    ):
        Watching.check(farm)
    worker.stop()
    worker._variant = "another"
    worker.ensure(["pocket"])
    assert not folder.why_refused(), "another worker is another question"
    worker.stop()
    for handle in (reading, writing):
        os.close(handle)


def test_more_than_the_machine_has_is_said(monkeypatch):
    monkeypatch.setattr(memory_budget, "machine_memory", lambda: 32 * GB)
    assert why_too_much(24) == why_too_much(32) == ""
    assert why_too_much(1000) == (
        "LTX_WORKER_MEMORY_GB is 1000, and this machine has 32 GB: it takes jobs that it cannot render; set it to 24 or"
        " less"
    )
