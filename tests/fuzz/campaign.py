"""Feed a parser wrong inputs, and check that it returns a value or one sentence, soon, in little memory."""

import contextlib
import gc
import resource
import signal
import sys
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

IN_CI = 500
"""Inputs of each kind when pytest is not told otherwise; they are the same in every run."""
SLOWEST = 2.0
"""Seconds of processor time for one input."""
HANGS = 10.0
"""Seconds of processor time after which an input is given up."""
PEAK = 64 * 10**6
"""Bytes that may be held at once because of one input, as far as Python knows of them; inputs have at most 0.5 MB."""
PEAK_RESIDENT = 200 * 10**6
"""Bytes by which one input may raise the most that the process has ever held, whoever allocated them."""
LONGEST_SENTENCE = 2_000

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    read: returns None for an input that was accepted, or else the sentence of its refusal. mutated, odd: mutations of
    valid inputs, and inputs that were never valid. valid: inputs that must be accepted.
    """

    name: str
    read: Callable[[Any], str | None]
    valid: tuple[Any, ...]
    mutated: st.SearchStrategy[Any]
    odd: st.SearchStrategy[Any]


@dataclass
class Tally:
    """The counts of a kind's inputs that were accepted and refused, and the most that one has cost."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    peak: int = 0
    grown: int = 0

    @property
    def inputs(self) -> int:
        return self.outcomes.total()

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        return (
            f"{self.name}: {self.inputs} inputs ({counts}); slowest {self.slowest * 1000:.0f} ms, peak"
            f" {self.peak / 1e6:.1f} MB of Python's, {self.grown / 1e6:.0f} MB more resident"
        )


class Hung(BaseException):
    """A time-out; no Exception, so that the code under test does not catch it."""


@contextlib.contextmanager
def _given_up_after(seconds):
    def give_up(*_):
        raise Hung(f"an input took {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def feed(kind: Kind, data: Any, tally: Tally, sort: str) -> None:
    """Feed one input to the parser, and check its result."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gc.disable()  # of what hypothesis remembers, which is much: it takes seconds, at the cost of whichever input
    tracemalloc.start()
    began = time.process_time()
    try:
        with _given_up_after(HANGS):
            refusal = kind.read(data)
        seconds = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) * MAXRSS_UNIT
    tally.outcomes[f"{sort} {'refused' if refusal else 'taken'}"] += 1
    tally.slowest, tally.peak = max(tally.slowest, seconds), max(tally.peak, peak)
    tally.grown = max(tally.grown, grown)
    assert seconds < SLOWEST, f"it took {seconds:.1f} s"
    assert peak < PEAK, f"it took {peak:,} bytes"
    assert grown < PEAK_RESIDENT, f"the process grew by {grown:,} bytes"
    assert refusal is None or is_sentence(refusal), refusal


def is_sentence(text: str) -> bool:
    """Return whether a person can read it: one line, not empty, without a traceback or an object's address."""
    return bool(text.strip()) and "\n" not in text and len(text) < LONGEST_SENTENCE and "Traceback" not in text


def run(kind: Kind, inputs: int) -> Tally:
    """Feed inputs, half of them mutations of valid ones.

    An error of the parser is reported with its input, simplified.
    """
    tally = Tally(kind.name)
    for valid in kind.valid:
        feed(kind, valid, checked := Tally(kind.name), "valid")
        assert checked.outcomes["valid taken"] == 1, valid
    for sort, strategy in (("mutated", kind.mutated), ("odd", kind.odd)):
        _feed_all(kind, strategy, inputs // 2, tally, sort)
    return tally


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Return a number of inputs, the same every time, for tests that cannot report on each one."""
    inputs: list[Any] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def take(data: Any) -> None:
        inputs.append(data)

    take()
    return inputs[:count]


def _feed_all(kind: Kind, strategy: st.SearchStrategy[Any], count: int, tally: Tally, sort: str) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=count <= IN_CI // 2,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def feed_each(data: Any) -> None:
        feed(kind, data, tally, sort)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # of showing an input that is large
        feed_each()
