"""A doctor's deep look: has this machine compute, and says whether that is right, how long it takes and in what memory.

All is computed in processes of their own, and what they found is written into one file, to be sent to whoever asks. No
secret, no address and no name of a person or a machine is in it.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ltx_client.protocol.budget import machine_memory
from ltx_client.protocol.checks import Check, Finding, Level
from ltx_client.protocol.text import shown
from ltx_models.memory import GB
from ltx_models.output_files import writing

__all__ = ["DEEP_REPORT", "DeepChecks"]

DEEP_REPORT = "self-test.json"
WORDS = 500
"""Characters of what a process said last."""
KERNELS_OFF = "renders use the formula in its place, which is slower; send the report"
WRONG = "do not render here: restart the machine, and send the report if it is so again"


class DeepChecks:
    """variant: whose widths are computed with, and whose memory is measured.  report: the file that is written."""

    def __init__(self, variant: str, report: Path) -> None:
        self._variant = variant
        self._report = report
        self._lines: list[dict[str, Any]] = []

    def checks(self) -> list[Check]:
        """All of them, in the order of the report."""
        return [self.computing, self.peaks, self.written]

    def computing(self) -> Iterator[Finding]:
        """Whether each part and each kernel gives what it should, and a clip shows what its prompt says."""
        for line in self._run("ltx_models.self_test", self._variant):
            if line["kind"] == "failed":
                yield Finding("computing", Level.FAILURE, line["text"], WRONG)
            elif line["kind"] == "clip":
                yield _of_clip(line)
            elif line["kind"] == "compared":
                yield _of_part(line)

    def peaks(self) -> Iterator[Finding]:
        """Whether a render's phases take no more memory than was predicted; with random weights of the real sizes."""
        measured = list(self._run("ltx_models.benchmark", self._variant, "--runs", "1"))
        for line in measured:
            if line.get("kind") == "failed":
                yield Finding("memory peaks", Level.FAILURE, line["text"], "send the report")
        predicted = [line for line in measured if line.get("predicted_bytes")]
        for line in predicted:
            text = f"{line['phase']}: {line['peak_bytes'] / GB:.2f} GB, predicted {line['predicted_bytes'] / GB:.2f}"
            if line["peak_bytes"] > line["predicted_bytes"]:
                mend = "lower LTX_WORKER_MEMORY_GB by as much, and send the report"
                yield Finding("memory peaks", Level.WARNING, f"{text}, {line['milliseconds']:,.0f} ms", mend)
            else:
                yield Finding("memory peaks", Level.OK, f"{text}, {line['milliseconds']:,.0f} ms")

    def written(self) -> Iterator[Finding]:
        """Where the report is."""
        about = {
            "ltx_farm": version("ltx-farm"),
            "system": f"{platform.system()} {platform.mac_ver()[0] or platform.release()}",
            "processor": platform.machine(),
            "python": platform.python_version(),
            "memory_bytes": machine_memory(),
            "variant": self._variant,
        }
        try:
            with writing(self._report) as file:
                file.write(json.dumps({**about, "results": self._lines}, indent=1).encode())
        except OSError as error:
            text = f"{self._report} cannot be written: {error.strerror or error}"
            yield Finding("report", Level.FAILURE, text, "name another file with --report")
            return
        yield Finding("report", Level.OK, f"{self._report} has all of this to send, and no secret")

    def _run(self, module: str, *arguments: str) -> Iterator[dict[str, Any]]:
        """Yield a process's lines as they come; as the last one, how it failed where it did."""
        command = [sys.executable, "-m", module, *arguments]
        with tempfile.TemporaryFile("w+", errors="replace") as said:  # a pipe that nobody reads would fill
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True
            ) as process:
                assert process.stdout is not None
                for text in process.stdout:
                    line = json.loads(text)
                    self._lines.append(line)
                    yield line
            said.seek(0)
            words = [text.strip()[-WORDS:] for text in said if text.strip()]
        if process.returncode:
            how = f"exit code {process.returncode}: {words[-1] if words else 'it said nothing'}"
            line = {"kind": "failed", "text": shown(f"{module} ended with {how}")}
            self._lines.append(line)
            yield line


def _of_part(line: dict[str, Any]) -> Finding:
    took = f"{line['milliseconds']:,.2f} ms"
    if line["plain_milliseconds"]:
        took += f", its formula {line['plain_milliseconds']:,.2f}"
    text = f"{line['part']}: off by {line['distance']:.2g}, at most {line['bound']:g} is right; {took}"
    if line["right"]:
        return Finding("computing", Level.OK, text)
    is_kernel = line["part"].startswith("kernel ")
    return Finding("computing", Level.FAILURE, text, KERNELS_OFF if is_kernel else WRONG)


def _of_clip(line: dict[str, Any]) -> Finding:
    if line["problem"]:
        return Finding("clip", Level.FAILURE, line["problem"], WRONG)
    text = f"rendered, written as an MP4 and read back in {line['seconds']:.1f} s ({line['psnr']:.0f} dB)"
    return Finding("clip", Level.OK, text)
