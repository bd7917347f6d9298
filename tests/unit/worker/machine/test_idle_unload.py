"""Test when an idle engine is ended."""

from types import SimpleNamespace

import psutil
import pytest

from ltx_worker.machine.idle_unload import BETWEEN_JOBS, IdleUnload


class StandIn:
    """Stands in for an engine that has been idle for so long."""

    def __init__(self, idle):
        self.idle = idle
        self.freed = False

    def free_if_idle(self, seconds):
        self.freed = self.idle >= seconds
        return self.freed


@pytest.mark.parametrize(
    ("idle", "after", "available", "freed"),
    [
        (100, 60, 50, True),
        (50, 60, 50, False),
        (10_000, 0, 50, False),
        (BETWEEN_JOBS, 60, 5, True),
        (BETWEEN_JOBS, 0, 5, True),
        (BETWEEN_JOBS - 1, 60, 5, False),
    ],
)
def test_an_idle_engine_goes_after_a_while_or_when_memory_runs_short(monkeypatch, idle, after, available, freed):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=100, available=available))
    engine = StandIn(idle)
    IdleUnload(engine, after).unload_if_due()
    assert engine.freed is freed
