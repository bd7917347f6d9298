"""Test resume points on their way from one attempt to the next, through workers of this version and the one before."""

import dataclasses
import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest

from ltx_models.errors import ResumeMismatch
from ltx_models.resume_point import Provenance, ResumePoint
from ltx_worker.engine.packing.arrays import DamagedArrays, read_arrays
from ltx_worker.engine.packing.resume_points import unpack

OLD_MAKER = {"checkpoint": "c", "text_encoder": "t", "dtype": "bfloat16", "version": "1", "job": "j"}
NEEDED = Provenance(
    job="j",
    hashes={"checkpoint": "c", "text_encoder": "t"},
    dtype="bfloat16",
    quantization={"transformer": 8},
    version="1",
)
LATENTS = np.random.default_rng(0).standard_normal((1, 8, 2, 3, 4), dtype=np.float32)
ZEROS = np.zeros((1, 1, 1, 1, 1), np.float32)


def old(latents=ZEROS, step=1, maker=OLD_MAKER, **arrays):
    """Return a resume point as the version before packs it."""
    buffer = io.BytesIO()
    described = maker if isinstance(maker, str) else json.dumps(maker)
    np.savez(buffer, latents=latents, step=step, maker=described, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("extra", [None, np.ones((1, 4, 8), np.float32)])
@pytest.mark.parametrize("version", ["old", "new"])
def test_a_resume_point_comes_back_bit_for_bit(extra, version):
    arrays = {} if extra is None else {"extra": extra}
    new = ResumePoint("denoise", 3, {"latents": LATENTS, **arrays}, NEEDED)
    point = unpack(old(LATENTS, 3, **arrays) if version == "old" else new.pack(), NEEDED)
    assert (point.stage, point.step, point.provenance) == ("denoise", 3, NEEDED)
    assert point.arrays.keys() == {"latents", *arrays}
    assert np.array_equal(point.arrays["latents"], LATENTS)
    assert extra is None or np.array_equal(point.arrays["extra"], extra)


@pytest.mark.parametrize("field", ["job", "checkpoint", "text_encoder", "dtype", "version"])
def test_another_makers_is_refused_and_says_why(field):
    hashed = field in NEEDED.hashes
    other = {"hashes": {**NEEDED.hashes, field: "other"}} if hashed else {field: "other"}
    new = ResumePoint("denoise", 1, {"latents": ZEROS}, dataclasses.replace(NEEDED, **other)).pack()
    for data in (old(maker={**OLD_MAKER, field: "other"}), new):
        with pytest.raises(ResumeMismatch, match=f"another {field.replace('_', ' ')}"):
            unpack(data, NEEDED)


@pytest.mark.parametrize("data", [old(), ResumePoint("denoise", 1, {"latents": ZEROS}, NEEDED).pack()])
def test_damaged_data_is_refused(data):
    unpack(data, NEEDED)
    for damaged in (b"", b"x" * 100, data[:-30], data[:20]):
        with pytest.raises(ResumeMismatch, match="damaged"):
            unpack(damaged, NEEDED)


def test_the_version_before_begins_again_where_it_finds_a_new_one():
    """It takes what begins with a brace for a pointer, and what it cannot read for a damaged point."""
    data = ResumePoint("denoise", 3, {"latents": LATENTS, "extra": LATENTS[0, 0]}, NEEDED).pack()
    assert not data.startswith(b"{")
    with pytest.raises(DamagedArrays, match="not a zip file"):
        read_arrays(data)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"maker": "[]"}, "damaged"),
        ({"maker": "[" * 5000}, "damaged"),
        ({"maker": {**OLD_MAKER, "job": None}}, "another job"),
        ({"maker": {"checkpoint": "c"}}, "another job"),
        (
            {"maker": {name: value for name, value in OLD_MAKER.items() if name != "text_encoder"}},
            "another text encoder",
        ),
        ({"maker": {**OLD_MAKER, "loras": "l"}}, "another component"),
        ({"step": np.inf}, "no step from 1 to 1000"),
        ({"step": 2.0}, "no step from 1 to 1000"),
        ({"step": True}, "no step from 1 to 1000"),
        ({"step": [1, 2]}, "no step from 1 to 1000"),
        ({"step": -3}, "no step from 1 to 1000"),
        ({"step": 0}, "no step from 1 to 1000"),
        ({"step": 1001}, "no step from 1 to 1000"),
        ({"step": 2**63 - 1}, "no step from 1 to 1000"),
        ({"step": np.array([{"a": 1}], object)}, "dtype object"),
        ({"latents": np.array([{"a": 1}], object)}, "dtype object"),
        ({"latents": np.full((1, 1, 1, 1, 1), "a")}, "<U1"),
        ({"latents": np.full((1, 1, 1, 1, 1), np.inf, np.float32)}, "not finite"),
        ({"extra": np.full((1, 1, 1), np.nan, np.float32)}, "not finite"),
        ({"latents": np.zeros((1, 1, 1, 1, 1))}, "float64"),
        ({"latents": np.full((1, 1, 1, 1, 1), np.nan, np.float32)}, "not finite"),
        ({"latents": np.zeros(4, np.float32)}, r"\(4,\)"),
        ({"extra": np.zeros(4, np.float32)}, r"\(4,\)"),
    ],
)
def test_what_is_whole_but_no_resume_point_is_refused(arrays, words):
    with pytest.raises(ResumeMismatch, match=words):
        unpack(old(**arrays), NEEDED)


def test_a_small_resume_point_that_says_it_is_large_takes_no_memory():
    buffer = io.BytesIO()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 2**28)}"
    with zipfile.ZipFile(buffer, "w") as file:
        text = header.replace(b"2**28", str(2**28).encode()).ljust(118) + b"\n"
        file.writestr("latents.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    tracemalloc.start()
    with pytest.raises(ResumeMismatch, match="number of values"):
        unpack(buffer.getvalue(), NEEDED)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
