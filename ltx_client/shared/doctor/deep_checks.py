"""Check what this machine computes: whether it is right, how long it takes, and how much memory.

Everything is computed in child processes, and the findings are written to one file, to be sent to whoever asks. It
contains no secret, no address, and no name of a person or a machine.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ltx_client.protocol.text import shown
from ltx_client.shared.console.child_output import ending_with_us
from ltx_client.shared.doctor.checks import Check, Finding, Level
from ltx_models.blas import blas_environment
from ltx_models.errors import FaultKind
from ltx_models.files.output_files import Content, descriptor, destination, kind_of, writing
from ltx_models.gpu_environment import GPU_ENVIRONMENT
from ltx_models.machine_faults import fault_in_output
from ltx_models.memory import GB, machine_memory

__all__ = ["DEEP_REPORT", "PEAK_STEPS", "DeepChecks"]

DEEP_REPORT = "self-test.json"
CONTENT = Content("a report in JSON", (".json", ".txt"))
PEAK_STEPS = 2
"""Steps of a render whose peak is measured; more steps do not change it."""
FOUND_WRONG = 3
"""`ltx_models.self_test.WRONG`: the exit code of a program that has itself reported what is wrong."""
SILENCE = 1800.0
"""Seconds without a line after which a process is considered stuck."""
WORDS = 500
"""Characters of a process's last words that are kept."""
KERNELS_OFF = "renders use the formula in its place, which is slower; send the report"
WRONG = "do not render here: restart the machine, and send the report if it is so again"
ROOM = "end other programs, such as a worker, or name a smaller variant with --variant"
WINOGRAD = "MLX_CONV_WINOGRAD"
REINSTALL = "pip install --force-reinstall 'ltx-farm[worker]'"
REFUSED = {"ltx_models.self_test": REINSTALL, "ltx_models.benchmark": ROOM}
"""Fixes for programs that say themselves, in a sentence, why they cannot continue."""
FIXES = {
    FaultKind.MEMORY: ROOM,
    FaultKind.SPACE: "make room on that disk, or set TMPDIR to a folder on another one",
    FaultKind.ACCESS: "give this user that file or folder",
    FaultKind.SOFTWARE: REINSTALL,
    FaultKind.DISPLAY: "let the display sleep (pmset displaysleepnow), and try again",
}
"""Fixes by the kind of fault that a process's last words name."""
_QUOTED = re.compile(r"""(['"])/.*?([^/'"]*)\1(?=\W|$)""")
_PATH = re.compile(r"(?<![\w…])~?/(?:[^\s/]+/)*(?=[^\s/])")


class DeepChecks:
    """Checks that compute."""

    def __init__(self, variant: str, report: Path) -> None:
        """Check with a variant's sizes.

        Args:
            variant: The variant whose sizes are computed with, and whose memory is measured.
            report: The file to write.
        """
        self._variant = variant
        self._report = report
        self._lines: list[dict[str, Any]] = []
        self._writable = True

    def checks(self) -> list[Check]:
        """Return all checks in the order of the report."""
        return [self.place, self.computing, self.peaks, self.written]

    def place(self) -> Iterator[Finding]:
        """Check whether the report can be written: nothing is computed otherwise."""
        try:
            there = destination(self._report)
            kind = kind_of(there)
            if kind == stat.S_IFDIR:
                raise IsADirectoryError(None, "it is a folder")
            if descriptor(there) is not None or str(self._report) == "-":
                raise OSError(None, "the findings are printed there")
            if kind and not os.access(there, os.W_OK):
                raise OSError(None, "it is write-protected, or another user's")
            if kind in (0, stat.S_IFREG):
                if why := CONTENT.why_not(self._report):
                    raise OSError(None, why)
                with tempfile.TemporaryFile(dir=there.parent):
                    pass
        except OSError as error:
            self._writable = False
            yield self._unwritten(error)

    def _unwritten(self, error: OSError) -> Finding:
        text = f"{self._report} cannot be written: {error.strerror or error}"
        return Finding("report", Level.FAILURE, text, "name another file with --report")

    def computing(self) -> Iterator[Finding]:
        """Check whether each part and each kernel computes the right result, and a clip shows what its prompt says."""
        for line in self._run("ltx_models.self_test", self._variant):
            if line["kind"] == "failed":
                yield Finding("computing", Level.FAILURE, line["text"], line["mend"] or WRONG)
            elif line["kind"] == "device":
                kernels = f"with kernels for {line['kernels']}" if line["kernels"] != "none" else "without kernels"
                yield Finding("computing", Level.OK, f"on {line['name']}, MLX {line['mlx']}, {kernels}")
            elif line["kind"] == "clip":
                yield _of_clip(line)
            elif line["kind"] == "compared":
                yield _of_part(line)

    def peaks(self) -> Iterator[Finding]:
        """Check whether a render's phases need no more memory than predicted, with random weights of the real sizes."""
        arguments = (self._variant, "--memory", "--runs", "1", "--steps", str(PEAK_STEPS))
        measured = list(self._run("ltx_models.benchmark", *arguments))
        for line in measured:
            if line.get("kind") == "failed":
                yield Finding("memory peaks", Level.FAILURE, line["text"], line["mend"] or "send the report")
        predicted = [line for line in measured if line.get("predicted_bytes")]
        for line in predicted:
            text = f"{line['phase']}: {line['peak_bytes'] / GB:.2f} GB, predicted {line['predicted_bytes'] / GB:.2f}"
            if line["peak_bytes"] > line["predicted_bytes"]:
                fix = "lower LTX_WORKER_MEMORY_GB by as much, and send the report"
                yield Finding("memory peaks", Level.WARNING, f"{text}, {line['milliseconds']:,.0f} ms", fix)
            else:
                yield Finding("memory peaks", Level.OK, f"{text}, {line['milliseconds']:,.0f} ms")

    def written(self) -> Iterator[Finding]:
        """Write the report, and say where it is."""
        about = {
            "ltx_farm": version("ltx-farm"),
            "system": f"{platform.system()} {platform.mac_ver()[0] or platform.release()}",
            "processor": platform.machine(),
            "python": platform.python_version(),
            "memory_bytes": machine_memory(),
            "variant": self._variant,
            "environment": {name: os.environ.get(name) for name in GPU_ENVIRONMENT["darwin"]},
        }
        if not self._writable:
            return
        try:
            with writing(self._report) as file:
                file.write(json.dumps({**about, "results": self._lines}, indent=1).encode())
        except OSError as error:
            yield self._unwritten(error)
            return
        yield Finding("report", Level.OK, f"{self._report} has all of this to send, and no secret")

    def _run(self, module: str, *arguments: str) -> Iterator[dict[str, Any]]:
        """Yield a process's lines as they come, and how it failed, if it did, as the last one."""
        if not self._writable:
            return
        command = [sys.executable, "-m", module, *arguments]
        stood_still = threading.Event()
        with tempfile.TemporaryFile("w+", errors="replace") as said:  # a pipe that nobody reads would fill
            with (
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                    errors="replace",
                    env=os.environ | blas_environment(),  # as an engine is started
                ) as process,
                ending_with_us(process),
            ):
                assert process.stdout is not None

                def end() -> None:
                    stood_still.set()
                    process.kill()

                while True:
                    watch = threading.Timer(SILENCE, end)
                    watch.daemon = True
                    watch.start()
                    text = process.stdout.readline()
                    watch.cancel()
                    if not text:
                        break
                    if line := self._noted(text):
                        yield line
                process.wait()
            said.seek(0)
            words = [text.strip()[-WORDS:] for text in said if text.strip()]
        if process.returncode not in (0, FOUND_WRONG):
            line = _failed(module, process.returncode, words, stood_still=stood_still.is_set())
            self._lines.append(line)
            yield line

    def _noted(self, text: str) -> dict[str, Any] | None:
        """Add a line to the report and return it; None for a library's own output, and for half a line."""
        try:
            line, kept = json.loads(text), json.loads(text, parse_constant=str)  # for NaN is not JSON
        except ValueError:
            return None
        if not isinstance(line, dict):
            return None
        if line.get("problem"):
            line["problem"] = kept["problem"] = _nameless(shown(line["problem"], lines=True))
        self._lines.append(kept)
        return line


def _failed(module: str, code: int, words: list[str], *, stood_still: bool) -> dict[str, Any]:
    """Return how a process ended, in words that name nobody, and the fix if it is known."""
    last = words[-1] if words else "it said nothing"
    fault = fault_in_output("\n".join(words))
    if fault and str(fault) not in last:
        last += f" ({fault})"
    fix = FIXES.get(fault.kind, "") if fault else ""
    if stood_still:
        how = f"{module} was stuck for {SILENCE / 60:.0f} minutes and was ended"
    elif code == -signal.SIGKILL:
        how, fix = f"{module} was ended by SIGKILL, as a system ends what takes too much memory", ROOM
    elif code < 0:
        how = f"{module} ended with {signal.Signals(-code).name}: {last}"
    elif last.startswith("Error: "):
        how, fix = last.removeprefix("Error: "), fix or REFUSED.get(module, "")
    else:
        how = f"{module} ended with exit code {code}: {last}"
    return {"kind": "failed", "text": _nameless(shown(how)), "mend": fix}


def _nameless(text: str) -> str:
    """Return a text without the folders of paths, and without the user's and the machine's name."""
    text = _PATH.sub("…/", _QUOTED.sub(r"\1…/\2\1", text))
    names = {platform.node(), platform.node().partition(".")[0]}
    with contextlib.suppress(KeyError, OSError):  # the system has no name for this user
        names.add(getpass.getuser())
    for name in filter(None, names):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "***", text)
    return text


def _of_part(line: dict[str, Any]) -> Finding:
    took = f"{line['milliseconds']:,.2f} ms"
    if line["plain_milliseconds"]:
        took += f", its formula {line['plain_milliseconds']:,.2f}"
    text = f"{line['part']}: off by {line['distance']:.2g}, at most {line['bound']:g} is right; {took}"
    if line["right"]:
        return Finding("computing", Level.OK, text)
    if line.get("problem"):
        text = f"{line['part']}: it fails here: {line['problem'].strip().splitlines()[0]}"
    fix = KERNELS_OFF if line["part"].startswith("kernel ") else WRONG
    if line["part"] == "VAE tile" and os.environ.get(WINOGRAD, "0") != "0":
        fix = f"unset {WINOGRAD}, which makes convolutions less exact on a Mac; if that does not help, {WRONG}"
    return Finding("computing", Level.FAILURE, text, fix)


def _of_clip(line: dict[str, Any]) -> Finding:
    if line["problem"]:
        return Finding("clip", Level.FAILURE, line["problem"], f"{REINSTALL}; if that does not help, {WRONG}")
    text = f"rendered, written as an MP4 and read back in {line['seconds']:.1f} s ({line['psnr']:.0f} dB)"
    return Finding("clip", Level.OK, text)
