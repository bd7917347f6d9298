"""Test that a job with pictures and clips takes no more memory than predicted, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ltx_models.families.variants import find_variant
from ltx_models.memory import GB, READING_BYTES, memory_class, predict_peak
from ltx_models.request import ConditioningItem, GenerationRequest
from tests.models.media.media_files import write_clip, write_png
from tests.models.media.test_memory_bounds import memory_of

RENDER = """
import sys
import mlx.core, PIL.PngImagePlugin
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.request import ConditioningItem, GenerationRequest
width, height, *inputs = sys.argv[1:]
items = tuple(ConditioningItem(kind=kind, source=path) for kind, path in zip(inputs[::2], inputs[1::2]))
request = GenerationRequest(
    prompt="a red ball", width=int(width), height=int(height), num_frames=25, num_steps=1, conditioning=items
)
pipeline = LTXPipeline("pocket")
print("ready", flush=True)
sys.stdin.readline()
for event in pipeline.stream(request):
    pass
print("done")
"""


@pytest.mark.parametrize("size", [(128, 128), pytest.param((256, 192), marks=pytest.mark.lane("models"))])
@pytest.mark.parametrize("megapixels", [0.1, *(pytest.param(of, marks=pytest.mark.lane("models")) for of in (20, 80))])
def test_a_render_takes_no_more_than_was_predicted(tmp_path: Path, size: tuple[int, int], megapixels: float) -> None:
    side = round((megapixels * 1e6) ** 0.5)
    inputs = {
        "image": write_png(tmp_path / "picture.png", (side, side - 1)),
        "video": write_clip(tmp_path / "clip.mkv", "640x480", "-c:v", "ffv1"),
    }
    items = tuple(ConditioningItem(kind=kind, source=str(path)) for kind, path in inputs.items())  # type: ignore[arg-type]
    width, height = size
    variant = find_variant("pocket")
    request = GenerationRequest(prompt="x", width=width, height=height, num_frames=25, conditioning=items)
    predicted = predict_peak(variant, request.resolve(variant))
    command = [sys.executable, "-c", RENDER, str(width), str(height)]
    command += [word for kind, path in inputs.items() for word in (kind, str(path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        watched = psutil.Process(process.pid)
        before = watched.memory_info().rss
        process.stdin.write("\n")
        process.stdin.flush()
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of(watched) - before)
            time.sleep(0.003)  # so that it is not this process that keeps a processor busy
        assert process.stdout.read() == "done\n"
    assert peak <= predicted


@pytest.mark.parametrize("kind", ["image", "video"])
def test_reading_is_predicted(kind: str) -> None:
    variant = find_variant("pocket")
    alone, several = (
        predict_peak(
            variant,
            GenerationRequest(
                prompt="x",
                conditioning=(ConditioningItem(kind=kind, source="x", frame=0),) * count,  # type: ignore[arg-type]
            ).resolve(variant),
        )
        for count in (1, 16)
    )
    assert alone > READING_BYTES
    assert several == alone  # they are read one after another
    assert memory_class(alone) == 1
    assert alone < GB
