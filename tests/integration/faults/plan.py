"""Plan a chaos run by a seed: rounds of jobs, each held in a phase and struck there."""

import math
import random
from collections import Counter
from dataclasses import dataclass

from tests.integration.faults.faults import FAULTS
from tests.integration.faults.harness import PHASES

OFTEN = 3
"""Every fault strikes in every phase so many times, where there are rounds enough."""
MOST_STRIKES = 4
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Strike:
    """A job of this seed is held in `phase` and struck by these faults in turn."""

    phase: str
    faults: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Round:
    """One round; `bystanders` are seeds of jobs without a fault."""

    number: int
    strikes: tuple[Strike, ...]
    bystanders: tuple[int, ...]


def plan(rounds, seed):
    """Return the rounds, the same for the same arguments: at each moment the rarest fault so far is the next."""
    draw = random.Random(seed)
    planned = Counter()
    heavy = [name for name, fault in FAULTS.items() if not fault.quick]
    quick = [name for name, fault in FAULTS.items() if fault.quick]
    needed = math.ceil(OFTEN * len(heavy) * len(PHASES) / rounds)
    strikes = max(2, min(MOST_STRIKES, needed))

    def rarest(pairs):
        pair = min(pairs, key=lambda pair: (planned[pair], draw.random()))
        planned[pair] += 1
        return pair

    def strike():
        fault, phase = rarest([(fault, phase) for fault in heavy for phase in PHASES])
        first, _ = rarest([(fault, phase) for fault in quick])
        return Strike(phase, (first, fault), draw.choice(SEEDS))

    return [
        Round(number, tuple(strike() for _ in range(strikes)), tuple(draw.choices(SEEDS, k=draw.randint(1, 3))))
        for number in range(1, rounds + 1)
    ]
