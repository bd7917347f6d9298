"""Write the result of a chaos run as REPORT.md."""

import platform
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, median

from tests.integration.faults.faults import FAULTS
from tests.integration.faults.harness import PHASES

REPORT = Path(__file__).with_name("REPORT.md")


class Tally:
    """Counts over a run's rounds; `findings` are pairs of the round's number and its audit's finding."""

    def __init__(self, command):
        self.command = command
        self.began = time.time()
        self.rounds = self.jobs = 0
        self.struck = Counter()
        self.findings = []
        self.lost_steps = []
        self.recoveries = defaultdict(list)

    def write(self):
        REPORT.write_text("\n".join(self._lines()) + "\n")

    def _lines(self):
        kinds = Counter(finding.kind for _, finding in self.findings)
        seconds = time.time() - self.began
        yield "# What the chaos test gave"
        yield ""
        yield f"{time.strftime('%Y-%m-%d')}, `uv run {self.command}`, {seconds / 60:.0f} minutes on {platform.system()}"
        yield ""
        yield "| | |"
        yield "| --- | ---: |"
        yield f"| rounds | {self.rounds} |"
        yield f"| jobs | {self.jobs} |"
        yield f"| faults injected | {self.struck.total()} |"
        for kind in ("lost", "doubled", "stuck", "other"):
            yield f"| {kind} | {kinds[kind]} |"
        yield f"| steps lost, most by one job | {max(self.lost_steps)} |"
        yield f"| steps lost, mean over struck jobs | {mean(self.lost_steps):.2f} |"
        fewest = min(self.struck[name, phase] for name in FAULTS for phase in PHASES)
        yield f"| the rarest fault in its rarest phase | {fewest} times |"
        yield ""
        yield "Seconds from a fault to the job's next claim (lease 2 s):"
        yield ""
        yield "| fault | times | median | longest |"
        yield "| --- | ---: | ---: | ---: |"
        for name, times in sorted(self.recoveries.items()):
            yield f"| {name} | {len(times)} | {median(times):.1f} | {max(times):.1f} |"
        yield ""
        yield "How often each fault struck in each phase:"
        yield ""
        yield f"| fault | {' | '.join(PHASES)} |"
        yield f"| --- |{' ---: |' * len(PHASES)}"
        for name in FAULTS:
            yield f"| {name} | {' | '.join(str(self.struck[name, phase]) for phase in PHASES)} |"
        for number, finding in self.findings:
            yield f"\nRound {number}: {finding}"
