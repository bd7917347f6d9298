"""Test resume points on their way from one attempt to the next."""

import io
import json
import tracemalloc
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest

from ltx_models.events import ResumePoint
from ltx_worker.engine.packing.resume_points import Maker, ResumeRefused, pack, unpack

MAKER = Maker(job="j", checkpoint="c", text_encoder="t", dtype="bfloat16", version="1")


@pytest.mark.parametrize("extra", [None, np.ones((1, 4, 8), np.float32)])
def test_a_resume_point_comes_back_bit_for_bit(extra):
    latents = np.random.default_rng(0).standard_normal((1, 8, 2, 3, 4), dtype=np.float32)
    point = unpack(pack(ResumePoint(3, latents, extra), MAKER), MAKER, 4)
    assert point.step == 3
    assert np.array_equal(point.latents, latents)
    assert point.extra is None if extra is None else np.array_equal(point.extra, extra)


@pytest.mark.parametrize("field", ["job", "checkpoint", "text_encoder", "dtype", "version"])
def test_another_makers_is_refused_and_says_why(field):
    data = pack(ResumePoint(1, np.zeros((1, 1, 1, 1, 1), np.float32)), replace(MAKER, **{field: "other"}))
    with pytest.raises(ResumeRefused, match=f"another {field.replace('_', ' ')}"):
        unpack(data, MAKER, 4)


def test_damaged_data_is_refused():
    data = pack(ResumePoint(1, np.zeros((1, 1, 1, 1, 1), np.float32)), MAKER)
    for damaged in (b"", b"x" * 100, data[:-30], data[:20]):
        with pytest.raises(ResumeRefused, match="damaged"):
            unpack(damaged, MAKER, 4)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"maker": "[]"}, "damaged"),
        ({"maker": "[" * 5000}, "damaged"),
        ({"maker": json.dumps({**asdict(MAKER), "job": None})}, "another job"),
        ({"maker": json.dumps({"checkpoint": "c"})}, "another text encoder"),
        ({"step": np.inf}, "no step from 1 to 4"),
        ({"step": 2.0}, "no step from 1 to 4"),
        ({"step": True}, "no step from 1 to 4"),
        ({"step": [1, 2]}, "no step from 1 to 4"),
        ({"step": -3}, "no step from 1 to 4"),
        ({"step": 0}, "no step from 1 to 4"),
        ({"step": 5}, "no step from 1 to 4"),
        ({"step": 2**63 - 1}, "no step from 1 to 4"),
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
    whole = {"latents": np.zeros((1, 1, 1, 1, 1), np.float32), "step": 1, "maker": json.dumps(asdict(MAKER))}
    buffer = io.BytesIO()
    np.savez(buffer, **{**whole, **arrays})
    with pytest.raises(ResumeRefused, match=words):
        unpack(buffer.getvalue(), MAKER, 4)


def test_a_small_resume_point_that_says_it_is_large_takes_no_memory():
    buffer = io.BytesIO()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 2**28)}"
    with zipfile.ZipFile(buffer, "w") as file:
        text = header.replace(b"2**28", str(2**28).encode()).ljust(118) + b"\n"
        file.writestr("latents.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    tracemalloc.start()
    with pytest.raises(ResumeRefused, match="number of values"):
        unpack(buffer.getvalue(), MAKER, 4)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
