"""Put every test into one lane; make the ledger's two sides on `redis_client`, which each folder or module provides.

`uv run pytest` runs the lane `quick`: tests of every part, parity with the goldens, and one render from prompt to MP4.
`-m LANE` runs another lane, `-m ""` all of them: `uv run pytest -m "" tests/models/test_parity.py` runs one file.
CI runs `quick`, then `-m "not quick and not slow and not chaos"`, so each test of both once; the lanes `slow` and
`chaos` are for a person with time.

A test's lane is, in this order: what its mark `lane("…")` says, the parameter's before the function's before the
module's; `machine` if it has a `skipif`; what `LANES` says of its file or folder. pyproject.toml describes each lane.
Give a new test no mark. Give it one if it takes more than a second in tests/unit or tests/models, or if it is the one
test of tests/integration that shows a promise which no quick test shows. A test of the lane `quick` that is skipped
fails: what only some machines have is tested in the lane `machine`.

`quarantine("reason")` marks a test that fails at times beside others, and is listed at the end of every run.
"""

import os
import sys
from pathlib import Path

import pytest

from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol import redaction
from ltx_client.protocol.jobs import Job, new_job_id
from ltx_client.protocol.names import Names
from ltx_models.families.variants import find_variant
from ltx_models.request import GenerationRequest
from ltx_worker.ledger.ledger import Ledger

TESTS = Path(__file__).parent
QUICK = "quick"
LANES = {
    ".": QUICK,
    "fuzz": "fuzz",
    "integration": "integration",
    "integration/deploy": "deploy",
    "integration/faults": "faults",
    "integration/local/test_kills.py": "faults",
    "integration/mixed": "faults",
    "models/kernels/metal": "machine",
    "models/pocket/test_export.py": "machine",
    "models/pocket/test_training.py": "machine",
    "unit/deploy/test_alerts.py": "machine",
}
"""The lane of each file or folder below tests/ that differs from that of the folder around it."""

os.environ["LTX_CONFIG"] = os.devnull  # whatever the person who runs the tests has configured
# Tests run side by side: threads of OpenBLAS that wait for each other take a third more of the processors' time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # As images of containers set it: each of the hundreds of interpreters that the tests start would compile all that
    # it imports, which takes twice as long as the imports themselves.
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(TESTS.parent / ".pytest_cache" / "bytecode")
    sys.dont_write_bytecode = False


@pytest.fixture(autouse=True)
def _nothing_secret_yet(monkeypatch):
    """Forget the secrets that an earlier test has registered."""
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
    """Add the options of `-m chaos` and of tests/fuzz, which must be here to be known however pytest is started."""
    chaos = parser.getgroup("chaos", "faults at random (with -m chaos)")
    chaos.addoption("--chaos-rounds", type=int, default=20, help="how many rounds of faults")
    chaos.addoption("--chaos-seed", type=int, help="of the plan of all rounds, as an earlier run has printed it")
    chaos.addoption("--chaos-round", type=int, help="only this round of the plan, to see again what failed")
    fuzz = parser.getgroup("fuzz", "wrong inputs (tests/fuzz)")
    fuzz.addoption("--fuzz-inputs", type=int, default=500, help="how many inputs of each kind; 10000 in a campaign")


def lane_of_path(path):
    """Return the lane that `LANES` gives to a file: its own, or that of the nearest folder around it."""
    below = path.relative_to(TESTS)
    return next(LANES[at.as_posix()] for at in (below, *below.parents) if at.as_posix() in LANES)


def lane_of(item):
    """Return the lane of a test. The mark of a parameter is before that of its function."""
    own = [mark for mark in item.own_markers if mark.name == "lane"]
    if mark := own[-1] if own else item.get_closest_marker("lane"):
        (lane,) = mark.args
        return lane
    return "machine" if item.get_closest_marker("skipif") else lane_of_path(item.path)


def pytest_ignore_collect(collection_path, config):
    """Skip files of other lanes without importing them if only the quick lane is selected."""
    if config.option.markexpr != QUICK or not collection_path.match("test_*.py"):
        return None
    is_quick = lane_of_path(collection_path) == QUICK or f'lane("{QUICK}")' in collection_path.read_text("utf-8")
    return None if is_quick else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark every test with its lane, before pytest selects by marks."""
    for item in items:
        item.add_marker(lane_of(item))
        for mark in item.iter_markers("quarantine"):
            item.user_properties.append(("quarantine", f"{item.nodeid}: {mark.args[0]}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Fail a quick test that is skipped, as no machine may lack what it needs.

    Escape what is no text in a report (a file's name, say): pytest-xdist cannot send it and ends the whole run.
    """
    report = yield
    if report.skipped and item.get_closest_marker(QUICK):
        report.outcome = "failed"
        report.longrepr = f'{item.nodeid} was skipped in the lane {QUICK}: mark it lane("machine")'
    if report.longrepr and "\\udc" in ascii(report.longreprtext):
        report.longrepr = sendable(report.longreprtext)
    report.sections = [(title, sendable(text)) for title, text in report.sections]
    return report


def sendable(text):
    return text.encode(errors="backslashreplace").decode()


def pytest_terminal_summary(terminalreporter):
    """Print the counts of inputs of tests/fuzz, and the tests in quarantine."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports if hasattr(report, "when")]
    for kind in ("fuzz", "quarantine"):
        properties = (pair for report in reports for pair in getattr(report, "user_properties", ()))
        lines = sorted({str(text) for name, text in properties if name == kind})
        for line in lines or (["no test of this run"] if reports and kind == "quarantine" else []):
            terminalreporter.write_line(f"{kind}: {line}")


def pytest_xdist_auto_num_workers(config):
    """Return one process more than there are processors, since many tests wait for other processes; one for chaos."""
    return 0 if config.option.markexpr == "chaos" else (os.cpu_count() or 1) + 1
