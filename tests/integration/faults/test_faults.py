"""Test each fault once, in one phase, on one farm, with an audit after each."""

import math

import pytest

from tests.integration.faults.audit import settle_and_audit
from tests.integration.faults.bad_messages import BAD
from tests.integration.faults.broker_faults import BROKER_FAULTS
from tests.integration.faults.faults import FAULTS, strike
from tests.integration.faults.harness import BreakableFarm

STRUCK = [
    ("engine killed", "denoising"),
    ("worker killed", "uploading"),
    ("worker killed", "committing"),
    ("worker killed", "committed"),
    ("server killed", "decoding"),
    ("worker suspended past its lease", "denoising"),
    ("one worker cut off past its lease", "denoising"),
    ("broker away past the lease", "text"),
    ("storage read-only", "writing"),
    ("storage full", "queued"),
    ("storage fails in mid-write", "uploading"),
    ("cancel", "loading"),
    ("cancel", "committing"),
    ("engine dies every time", "denoising"),
    ("machine ENOSPC", "writing"),
    ("machine EMFILE", "text"),
    ("machine EACCES", "decoding"),
    ("machine EIO", "denoising"),
    ("machine NaN", "denoising"),
    ("machine NaN", "decoding"),
    ("SIGTERM", "decoding"),
    ("SIGTERM twice", "denoising"),
    ("SIGQUIT", "text"),
    ("drain", "queued"),
    ("CLIENT KILL", "uploading"),
    ("connections cut", "committing"),
    ("message delivered twice", "denoising"),
    *((name, "denoising") for name in BROKER_FAULTS),
    ("storage keeps half", "uploading"),
    ("storage keeps nothing", "writing"),
    ("share unmounted", "writing"),
    ("no descriptor left", "writing"),
    ("stray files in the spool", "uploading"),
    *((bad, "queued") for bad in BAD),
]


@pytest.fixture(scope="module")
def farm(tmp_path_factory, clean_env):
    farm = BreakableFarm(tmp_path_factory.mktemp("faults") / "farm", clean_env)
    for name in ("one", "two"):
        farm.add_worker(name)
    farm.await_workers()
    farm.render_references((1,))
    yield farm
    assert not farm.close()


def assert_clean(farm):
    findings = settle_and_audit(farm)
    assert not findings, "\n".join(map(str, findings))


@pytest.mark.parametrize(("fault", "phase"), STRUCK, ids=lambda value: value.replace(" ", "-"))
def test_a_fault(farm, fault, phase):
    for _ in range(2):
        farm.submit()
    job = farm.submit(hold=phase)
    if FAULTS[fault].broker:
        for expected in farm.expected.values():  # what was not acknowledged may be lost
            expected.crashes = math.inf
    strike(farm, job, phase, fault)
    farm.await_workers()
    assert_clean(farm)
