"""Test the Python API: the READMEs' own examples, as a new user would run them; handles and their errors."""

import asyncio
import re
import subprocess
import sys

import pytest

import ltx_client
from ltx_client import AsyncFarm, Farm
from ltx_client.errors import JobCancelled, UsageError
from ltx_client.protocol import events
from tests.clips import read_clip
from tests.integration.conftest import PROMPT
from tests.papers import PAPERS

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(code, id=f"{paper.parent.name}-{number}")
    for paper in PAPERS
    for number, code in enumerate(BLOCK.findall(paper.read_text()))
]
SMALL = {"width": 64, "height": 64, "num_frames": 9, "num_steps": 2}


def test_the_readmes_have_examples_of_all_that_there_is():
    text = "".join(example.values[0] for example in EXAMPLES)
    assert len(EXAMPLES) >= 5
    assert all(f"import {name}" in text for name in ("Farm", "AsyncFarm", "LTXPipeline"))


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_of_a_readme(no_farm_env, tmp_path, code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**no_farm_env, "LTX_WORKER_REAP_EVERY": "0.3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    videos = list(tmp_path.glob("*.mp4"))
    assert videos
    assert all(len(read_clip(path).frames) > 1 for path in videos)


@pytest.fixture
def settings(farm_env, monkeypatch):
    for name in ("LTX_BROKER_URL", "LTX_STORAGE_URL", "LTX_HOME"):
        monkeypatch.setenv(name, farm_env.env[name])


def test_a_handle(farm_env, settings, tmp_path):
    with Farm() as farm:
        waiting = farm.render(PROMPT, **SMALL, seed=1)
        assert waiting.status == "queued"
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.1 s"):
            waiting.wait(timeout=0.1)
        following = farm.render(PROMPT, **SMALL, after=[waiting])
        cancelled = farm.render(PROMPT, **SMALL)
        cancelled.cancel()
        with pytest.raises(JobCancelled, match=cancelled.id):
            cancelled.wait()
        with pytest.raises(UsageError, match=r"no 'num_stepz'; is num_steps meant\?"):
            farm.render(PROMPT, num_stepz=3)
        farm_env.start_worker(reap_every=0.2)
        path = following.wait(60).download(tmp_path)
        assert path.parent == tmp_path
        assert waiting.status == "done"
        log = list(waiting.events())
        assert isinstance(log[0], events.Claimed) and isinstance(log[-1], events.Done)
        assert cancelled.retry().wait(60).status == "done"

    async def awaited():
        async with AsyncFarm() as again:
            job = await again.render(PROMPT, **SMALL, seed=1)
            seen = [event.type async for event in job.events()]
            got = await (await job.wait()).download(tmp_path / "b.mp4")
            paused = await again.render(PROMPT, **{**SMALL, "num_steps": 200})
            await paused.pause()
            with pytest.raises(TimeoutError):
                await paused.wait(timeout=0.2)
            await paused.cancel()
            with pytest.raises(JobCancelled):
                await paused.wait()
            return seen, got

    seen, got = asyncio.run(awaited())
    assert (seen[0], seen[-1]) == ("claimed", "done")
    assert (read_clip(got).frames == read_clip(waiting_video(farm_env, waiting.id)).frames).all()


def waiting_video(farm_env, job_id):
    return next(farm_env.storage.glob(f"{job_id}.1.*.mp4"))


def test_names_that_there_are_not():
    with pytest.raises(AttributeError, match="has no attribute 'Barn'"):
        ltx_client.Barn  # noqa: B018
    with pytest.raises(RuntimeError, match="async with"):
        AsyncFarm().job("x")
