"""Goldens: what the official PyTorch code computes in float32 on a CPU, with the checkpoints that it used.

tests/data/ltxv-tiny-*: random weights in the layouts of the 0.9.0 and 0.9.8 releases. tests/data/pocket: one render of
the bundled model; its pixels are stored as round(65535 x), so they are right to 8e-6.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from ltx_models import convert
from ltx_models.checkpoint import SingleFile
from ltx_models.events import PromptEmbeddings
from ltx_models.pipeline.text_to_video import LTXPipeline
from tests.models.checkpoint.raw_safetensors import Entries, read_raw

DATA = Path(__file__).parent.parent / "data"
TOKENIZER = DATA / "tokenizer" / "spiece.model"

Run = Callable[..., tuple[int, list[str]]]
RawCheckpoint = tuple[Entries, dict[str, str]]


@dataclass(frozen=True)
class Golden:
    """One tiny checkpoint, and the official code's results with it."""

    folder: Path
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.folder.name}.safetensors"

    @property
    def fp8_checkpoint(self) -> Path:
        """Return the golden 0.9.8, the only one with such a file."""
        return self.folder / f"{self.folder.name}-fp8.safetensors"

    @property
    def text_encoder(self) -> Path:
        return self.folder / "text_encoder"

    @property
    def file(self) -> SingleFile:
        return SingleFile(self.checkpoint)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def mx(self, key: str) -> mx.array:
        return mx.array(self.arrays[key])

    def embeddings(self) -> PromptEmbeddings:
        text, mask = self["t5.output"], self["t5.attention_mask"]
        return PromptEmbeddings(text[:1], mask[:1], text[1:], mask[1:])

    def pipeline(self) -> LTXPipeline:
        return LTXPipeline.from_files(
            checkpoint=self.checkpoint, text_encoder=self.text_encoder, tokenizer=TOKENIZER, dtype=mx.float32
        )


@pytest.fixture(scope="session", autouse=True)
def _on_the_cpu() -> Iterator[None]:
    """Compute on the CPU: the bounds of the parity tests are for float32 there."""
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


@pytest.fixture(scope="session", params=["0.9.0", "0.9.8"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="session")
def golden_090() -> Golden:
    return load_golden("0.9.0")


@pytest.fixture(scope="session")
def golden_098() -> Golden:
    return load_golden("0.9.8")


@pytest.fixture(scope="session")
def pocket() -> LTXPipeline:
    return LTXPipeline("pocket", dtype=mx.float32)


@pytest.fixture(scope="session")
def raw_098() -> RawCheckpoint:
    return read_raw(load_golden("0.9.8").checkpoint)


@pytest.fixture
def convert_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `python -m ltx_models.convert`; return its exit code and the lines of its stderr."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        return convert.main(), capsys.readouterr().err.splitlines()

    return run


def load_golden(version: str) -> Golden:
    folder = DATA / f"ltxv-tiny-{version}"
    arrays, metadata = read_safetensors(folder / f"{folder.name}.golden.safetensors")
    return Golden(folder, arrays, json.loads(metadata["settings"]))


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(path, "numpy") as file:
        names = file.keys()  # the file itself is not iterable
        return {name: file.get_tensor(name) for name in names}, file.metadata()


def relative_error(ours: Any, golden: np.ndarray) -> float:
    """Return the L2 norm of the difference divided by that of the golden."""
    got, expected = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    assert got.shape == expected.shape
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """Return (F, H, W, 3) as (1, 3, F, H, W), the goldens' order."""
    return np.moveaxis(pixels, -1, 0)[None]
