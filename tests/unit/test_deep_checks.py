"""What `doctor --deep` says of what was computed, and what it writes for others to read."""

import getpass
import json
import platform
import sys

import pytest

from ltx_client.protocol import deep_checks
from ltx_client.protocol.checks import Level, run_checks
from ltx_client.protocol.deep_checks import DeepChecks

RIGHT = {"kind": "compared", "part": "VAE tile", "distance": 0.01, "bound": 0.04, "right": True}
TIMES = {"milliseconds": 12.0, "plain_milliseconds": 0.0}
CLIP = {"kind": "clip", "problem": "", "seconds": 3.0, "psnr": 38.0, "bytes": 9000}
PEAK = {"phase": "decode", "peak_bytes": 2 * 10**9, "predicted_bytes": 3 * 10**9, "milliseconds": 100.0}


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Run the checks on what a stand-in for each of the two programs prints: what was found, and the report."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def look(self_test, benchmark=(PEAK,), ending=""):
        for name, lines in (("ltx_models.self_test", self_test), ("ltx_models.benchmark", benchmark)):
            program = "\n".join(f"print({json.dumps(json.dumps(line))}, flush=True)" for line in lines)
            (tmp_path / f"{name.rpartition('.')[2]}_stand_in.py").write_text(f"{program}\n{ending}\n")
        run = DeepChecks._run
        stand_in = lambda self, module, *_: run(self, f"{module.rpartition('.')[2]}_stand_in")  # noqa: E731
        monkeypatch.setattr(DeepChecks, "_run", stand_in)
        report = tmp_path / "report.json"
        found = list(run_checks(DeepChecks("pocket", report).checks()))
        return found, json.loads(report.read_text())

    return look


def test_a_machine_that_computes_as_it_should(look):
    found, report = look([{"kind": "device", "name": "M1"}, {**RIGHT, **TIMES}, CLIP])
    assert {finding.level for finding in found} == {Level.OK}
    assert [finding.about for finding in found] == ["computing", "clip", "memory peaks", "report"]
    assert "VAE tile: off by 0.01, at most 0.04 is right; 12.00 ms" in found[0].text
    assert report["results"] == [{"kind": "device", "name": "M1"}, {**RIGHT, **TIMES}, CLIP, PEAK]
    assert report["variant"] == "pocket" and report["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("line", "said", "mend"),
    [
        ({**RIGHT, **TIMES, "distance": 0.3, "right": False}, "off by 0.3", "do not render here"),
        ({**RIGHT, **TIMES, "distance": float("nan"), "right": False}, "off by nan", "do not render here"),
        (
            {**RIGHT, **TIMES, "part": "kernel activate, 1x2", "right": False},
            "kernel activate",
            "renders use the formula",
        ),
        ({**CLIP, "problem": "frames come out of an MP4 changed"}, "changed", "do not render here"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(look, line, said, mend):
    failed = [finding for finding in look([line])[0] if finding.level is Level.FAILURE]
    assert [said in finding.text and finding.mend.startswith(mend) for finding in failed] == [True]


def test_more_memory_than_was_predicted(look):
    found, _ = look(
        [CLIP], [{**PEAK, "peak_bytes": 4 * 10**9}, {**PEAK, "phase": "a part alone", "predicted_bytes": 0}]
    )
    peaks = [finding for finding in found if finding.about == "memory peaks"]
    assert [(finding.level, finding.text) for finding in peaks] == [
        (Level.WARNING, "decode: 4.00 GB, predicted 3.00, 100 ms")
    ]


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("raise RuntimeError('[METAL] Command buffer execution failed')", "Command buffer execution failed"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9: it said nothing"),
        ("import sys; sys.stderr.write('x' * 10**6); sys.exit(3)", "exit code 3"),
    ],
)
def test_a_process_that_dies_is_a_finding_and_the_report_is_written(look, ending, said):
    found, report = look([{**RIGHT, **TIMES}], ending=ending)
    failed = [finding for finding in found if finding.level is Level.FAILURE]
    assert len(failed) == 2 and all(said in finding.text for finding in failed)
    assert [line["kind"] for line in report["results"] if "kind" in line] == ["compared", "failed", "failed"]


def test_the_report_names_nobody(look, monkeypatch):
    monkeypatch.setenv("LTX_BROKER_URL", "redis://:hush@cellar/0")
    text = json.dumps(look([CLIP])[1])
    assert (
        not any(word in text for word in (platform.node(), "hush", "cellar")) and getpass.getuser() not in text.split()
    )


def test_a_report_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(DeepChecks, "_run", lambda *_: iter(()))
    *_, last = run_checks(DeepChecks("pocket", tmp_path / "no" / "report.json").checks())
    assert last.level is Level.FAILURE and last.mend == "name another file with --report"


def test_the_real_programs_are_there():
    assert deep_checks.sys.executable == sys.executable
    for name in ("ltx_models.self_test.__main__", "ltx_models.benchmark.__main__"):
        assert __import__("importlib.util").util.find_spec(name)
