"""Test what `doctor --deep` says about the computations, and the report that it writes."""

import getpass
import json
import platform
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from ltx_client.cli import main as client
from ltx_client.shared.doctor import deep_checks
from ltx_client.shared.doctor.checks import Level, run_checks
from ltx_client.shared.doctor.deep_checks import DeepChecks
from ltx_models import self_test
from ltx_worker.cli import main as worker

RIGHT = {"kind": "compared", "part": "VAE tile", "distance": 0.01, "bound": 0.04, "right": True}
TIMES = {"milliseconds": 12.0, "plain_milliseconds": 0.0}
CLIP = {"kind": "clip", "problem": "", "seconds": 3.0, "psnr": 38.0, "bytes": 9000}
PEAK = {"phase": "decode", "peak_bytes": 2 * 10**9, "predicted_bytes": 3 * 10**9, "milliseconds": 100.0}


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Run the checks on the output of a stand-in for each of the two programs; return the findings, and the report."""
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
    device = {"kind": "device", "name": "Apple M1", "mlx": "0.32.4", "kernels": "metal"}
    found, report = look([device, {**RIGHT, **TIMES}, CLIP])
    assert {finding.level for finding in found} == {Level.OK}
    assert [finding.about for finding in found] == ["computing", "computing", "clip", "memory peaks", "report"]
    assert found[0].text == "on Apple M1, MLX 0.32.4, with kernels for metal"
    assert "VAE tile: off by 0.01, at most 0.04 is right; 12.00 ms" in found[1].text
    assert report["results"] == [device, {**RIGHT, **TIMES}, CLIP, PEAK]
    assert report["variant"] == "pocket" and report["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("line", "said", "fix"),
    [
        ({**RIGHT, **TIMES, "distance": 0.3, "right": False}, "off by 0.3", "do not render here"),
        ({**RIGHT, **TIMES, "distance": float("nan"), "right": False}, "off by nan", "do not render here"),
        (
            {**RIGHT, **TIMES, "part": "kernel activate, 1x2", "right": False},
            "kernel activate",
            "renders use the formula",
        ),
        (
            {**RIGHT, **TIMES, "part": "kernel activate, 1x2", "right": False, "problem": "error: no type\nnote"},
            "activate, 1x2: it fails here: error: no type",
            "renders use the formula",
        ),
        ({**CLIP, "problem": "frames read back from an MP4 differ"}, "differ", "pip install --force-reinstall"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(look, line, said, fix):
    failed = [finding for finding in look([line])[0] if finding.level is Level.FAILURE]
    assert [said in finding.text and finding.fix.startswith(fix) for finding in failed] == [True]


def test_a_tile_that_is_off_by_what_the_user_has_set(look, monkeypatch):
    monkeypatch.setenv("MLX_CONV_WINOGRAD", "1")
    found, report = look([{**RIGHT, **TIMES, "distance": 0.05, "right": False}])
    assert found[0].fix.startswith("unset MLX_CONV_WINOGRAD")
    assert report["environment"]["MLX_CONV_WINOGRAD"] == "1"


def test_more_memory_than_was_predicted(look):
    found, _ = look(
        [CLIP], [{**PEAK, "peak_bytes": 4 * 10**9}, {**PEAK, "phase": "a part alone", "predicted_bytes": 0}]
    )
    peaks = [finding for finding in found if finding.about == "memory peaks"]
    assert [(finding.level, finding.text) for finding in peaks] == [
        (Level.WARNING, "decode: 4.00 GB, predicted 3.00, 100 ms")
    ]


@pytest.mark.parametrize(
    ("ending", "said", "fix"),
    [
        ("raise RuntimeError('[METAL] Command buffer execution failed')", "Command buffer execution failed", ""),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL", "end other programs"),
        ("import os; os.abort()", "ended with SIGABRT: it said nothing", ""),
        ("raise OSError(28, 'No space left on device')", "a disk is full", "make room"),
        ("import sys; sys.exit('Error: measuring dev needs 40 GB')", "measuring dev needs 40 GB", None),
        ("import sys; sys.stderr.write('x' * 10**6); sys.exit(4)", "exit code 4", ""),
        ("import sys; print('{\"kind\": \"comp', end='', flush=True); sys.exit(5)", "exit code 5", ""),
    ],
)
def test_a_process_that_dies_is_a_finding_and_the_report_is_written(look, ending, said, fix):
    found, report = look([{**RIGHT, **TIMES}], ending=f"print('5\\nwords of a library', flush=True)\n{ending}")
    failed = [finding for finding in found if finding.level is Level.FAILURE]
    assert len(failed) == 2 and all(said in finding.text for finding in failed)
    defaults = ["do not render here", "send the report"]
    assert fix is None or [
        finding.fix.startswith(fix or default) for finding, default in zip(failed, defaults, strict=True)
    ] == [True, True]
    assert [line["kind"] for line in report["results"] if "kind" in line] == ["compared", "failed", "failed"]


def test_a_program_that_stands_still_is_ended(look, monkeypatch):
    monkeypatch.setattr(deep_checks, "SILENCE", 1.0)
    found, _ = look([], (), ending="import signal, time; signal.signal(signal.SIGTERM, lambda *_: 0); time.sleep(60)")
    assert [("was stuck" in finding.text) for finding in found if finding.level is Level.FAILURE] == [True, True]


def test_a_program_ends_with_whoever_has_left(tmp_path, monkeypatch):
    """That is so for SIGTERM too, which is an exception meanwhile."""
    (tmp_path / "waits.py").write_text(
        "import time\nprint('{}', flush=True)\nprint('[]\\n{\"a\": 1}', flush=True)\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(deep_checks, "blas_environment", dict)  # which starts a program of its own
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(deep_checks.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])
    lines = DeepChecks("pocket", tmp_path / "report.json")._run("waits")
    assert next(lines) == {"a": 1}
    before = time.monotonic()
    with pytest.raises(SystemExit) as raised:
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.code == 128 + signal.SIGTERM
    lines.close()
    assert started[0].wait() and time.monotonic() - before < 100
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_differs_from_json_is_text_in_the_report(look):
    _, report = look([{**RIGHT, **TIMES, "distance": float("nan"), "right": False}])
    assert report["results"][0]["distance"] == "NaN"


@pytest.mark.parametrize("name", ["", "no/report.json", "clip.mp4", "/dev/stdout", "protected.json"])
def test_nothing_is_computed_for_a_report_that_cannot_be_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr(deep_checks.subprocess, "Popen", None)
    (tmp_path / "protected.json").touch()
    monkeypatch.setattr(
        deep_checks.os, "access", lambda path, _: path.name != "protected.json"
    )  # as for who is not root
    (found,) = run_checks(DeepChecks("pocket", tmp_path / name).checks())
    assert (found.level, found.fix) == (Level.FAILURE, "name another file with --report")


def test_names_and_folders_are_kept_out_of_what_is_sent(monkeypatch):
    monkeypatch.setattr(deep_checks.platform, "node", lambda: "anns-mac.local")
    monkeypatch.setattr(deep_checks.getpass, "getuser", lambda: "ann")
    said = "'/Users/Ann Lee/My disk/a.safetensors': ~/x/b.json is ann's on anns-mac, not planned 3/4 at /opt/venv/lib"
    assert deep_checks._nameless(said) == ("'…/a.safetensors': …/b.json is ***'s on ***, not planned 3/4 at …/lib")


def test_the_report_names_nobody(look, monkeypatch):
    monkeypatch.setenv("LTX_BROKER_URL", "redis://:hush@cellar/0")
    text = json.dumps(look([CLIP])[1])
    assert (
        not any(word in text for word in (platform.node(), "hush", "cellar")) and getpass.getuser() not in text.split()
    )


def test_the_real_programs_are_there():
    assert deep_checks.FOUND_WRONG == self_test.WRONG
    assert deep_checks.sys.executable == sys.executable
    for name in ("ltx_models.self_test.__main__", "ltx_models.benchmark.__main__"):
        assert __import__("importlib.util").util.find_spec(name)


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (client, ["doctor", "--variant", "pocket"], "--variant is for --deep, which was not given"),
        (client, ["doctor", "--report", "report.json"], "--report is for --deep, which was not given"),
        (worker, ["doctor", "--report", "report.json"], "--report is invalid without --deep"),
    ],
)
def test_what_is_for_deep_alone_is_not_ignored(command, arguments, said):
    done = CliRunner().invoke(command, arguments)
    assert (done.exit_code, said in done.output) == (2, True)
