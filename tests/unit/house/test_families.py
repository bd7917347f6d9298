"""Test that what every family uses names no family's networks: rows do, and the rooms of the networks themselves."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GENERIC = (
    "ltx_models/benchmark",
    "ltx_models/checkpoint",
    "ltx_models/convert.py",
    "ltx_models/files/model_files.py",
    "ltx_models/layers/quantization.py",
    "ltx_models/memory.py",
    "ltx_models/pipeline/base.py",
    "ltx_models/pipeline/residency.py",
    "ltx_models/request.py",
    "ltx_models/self_test",
    "ltx_worker/engine",
)
NETWORKS = re.compile(r"t5|text_encoder|vae|transformer", re.IGNORECASE)
FILES = [file for place in GENERIC for file in sorted((ROOT / place).rglob("*.py")) or [ROOT / place]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_every_family_uses_names_no_network(file):
    lines = [line for line in file.read_text().splitlines() if NETWORKS.search(line)]
    if file.name == "resume_points.py":  # fields of what older workers have saved
        lines = [line for line in lines if "text_encoder: " not in line]
    if file.name == "request.py":  # a mode of guidance that the wire has
        lines = [line for line in lines if "transformer_block" not in line]
    assert lines == []
