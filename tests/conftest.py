"""The ledger's two sides on `redis_client`, which each folder or module makes of its own kind of server; options."""

import os

import pytest

from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol import redaction
from ltx_client.protocol.jobs import Job, new_job_id
from ltx_client.protocol.names import Names
from ltx_models.families.variants import find_variant
from ltx_models.request import GenerationRequest
from ltx_worker.ledger.ledger import Ledger

os.environ["LTX_CONFIG"] = os.devnull  # whatever the person who runs the tests has configured


@pytest.fixture(autouse=True)
def _nothing_secret_yet(monkeypatch):
    """What one test was given as a secret is a word like another to the next."""
    monkeypatch.setattr(redaction, "_known", frozenset())


@pytest.fixture
def names():
    return Names("test:")


@pytest.fixture
def client_ledger(redis_client, names):
    return ClientLedger(redis_client, names)


@pytest.fixture
def ledger(redis_client, names):
    return Ledger(redis_client, names)


@pytest.fixture
def make_job():
    def make(**fields):
        request = GenerationRequest(prompt="a red ball", seed=1).resolve(find_variant("pocket"))
        defaults = {"id": new_job_id(), "variant": "pocket", "predicted_peak": 10**8, "submitter": "me@here"}
        return Job(request=request, **{**defaults, **fields})

    return make


@pytest.fixture
def job(make_job, client_ledger):
    job = make_job()
    client_ledger.submit(job)
    return job


def pytest_addoption(parser):
    """Those of `-m chaos` and of tests/fuzz, which must stand here to be known however pytest is started."""
    chaos = parser.getgroup("chaos", "faults at random (with -m chaos)")
    chaos.addoption("--chaos-rounds", type=int, default=20, help="how many rounds of faults")
    chaos.addoption("--chaos-seed", type=int, help="of the plan of all rounds, as an earlier run has printed it")
    chaos.addoption("--chaos-round", type=int, help="only this round of the plan, to see again what failed")
    fuzz = parser.getgroup("fuzz", "wrong inputs (tests/fuzz)")
    fuzz.addoption("--fuzz-inputs", type=int, default=500, help="how many inputs of each kind; 10000 in a campaign")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape what is no text in a report (a file's name, say): pytest-xdist cannot send it and ends the whole run."""
    report = yield
    if report.longrepr and "\\udc" in ascii(report.longreprtext):
        report.longrepr = sendable(report.longreprtext)
    report.sections = [(title, sendable(text)) for title, text in report.sections]
    return report


def sendable(text):
    return text.encode(errors="backslashreplace").decode()


def pytest_terminal_summary(terminalreporter):
    """What became of the inputs of tests/fuzz, wherever they were fed."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    lines = {str(text) for report in reports for name, text in getattr(report, "user_properties", ()) if name == "fuzz"}
    for line in sorted(lines):
        terminalreporter.write_line(f"fuzz: {line}")


def pytest_xdist_auto_num_workers(config):
    """One more than there are processors, since many tests wait for other processes; for chaos, which tells how far it
    is as it goes, the test run's own process alone.
    """
    return 0 if config.option.markexpr == "chaos" else (os.cpu_count() or 1) + 1
