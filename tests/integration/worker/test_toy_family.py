"""Test that a family in a folder on PYTHONPATH renders through a whole farm, with no edit outside its own files."""

import json
import os
from pathlib import Path

import pytest

from tests.integration.conftest import ltx

TOY = Path(__file__).parents[2] / "toy_family"


@pytest.fixture
def env(no_farm_env):
    return {**no_farm_env, "PYTHONPATH": os.pathsep.join([str(TOY), str(TOY.parents[1])])}


def test_it_renders_from_a_prompt_to_a_video(env, tmp_path):
    output = tmp_path / "toy.mp4"
    done = ltx("render", "two linear layers", "-v", "toy", "--seed", 3, "-o", output, env=env)
    assert done.returncode == 0, done.stderr
    assert output.stat().st_size > 500
    assert "loading the mixer" in done.stderr
    (job,) = json.loads(ltx("jobs", "--json", env=env).stdout)
    assert (job["variant"], job["status"]) == ("toy", "done")
