"""Provide `campaign`, which runs a kind with the number of inputs that pytest was given."""

from pathlib import Path

import pytest

from tests.fuzz.campaign import IN_CI, run

SECONDS = 600
"""For the inputs of a run in CI; more inputs get more."""


def pytest_collection_modifyitems(config, items):
    seconds = max(SECONDS, SECONDS * config.option.fuzz_inputs // IN_CI)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture
def campaign(request, record_property):
    def run_kind(kind, one_in=1):
        tally = run(kind, request.config.option.fuzz_inputs // one_in)
        record_property("fuzz", str(tally))
        return tally

    return run_kind
