"""Test resume points as bytes: what comes back, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.numpy import save

from ltx_models import resume_point
from ltx_models.errors import ResumeMismatch
from ltx_models.resume_point import KEY, Provenance, ResumePoint

MAKER = Provenance(
    job="j",
    hashes={"checkpoint": "0" * 64, "text_encoder": "1" * 64},
    dtype="bfloat16",
    quantization={"transformer": 8},
    version="1",
)
LATENTS = np.linspace(-1, 1, 96, dtype=np.float32).reshape(1, 4, 2, 3, 4)
POINT = ResumePoint("denoise", 3, {"video": LATENTS, "audio": LATENTS[0, 0], "random": np.arange(2, dtype=np.uint32)})
PACKED = POINT.pack()

SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FLOATS = st.sampled_from((np.float16, np.float32, np.float64)).flatmap(
    lambda dtype: arrays_of.arrays(dtype, SHAPES, elements={"allow_nan": False, "allow_infinity": False})
)
INTEGERS = st.sampled_from((np.uint8, np.uint32, np.uint64)).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES))
BFLOATS = arrays_of.arrays(np.uint16, SHAPES, elements=st.integers(0, 0x7F7F)).map(lambda a: a.view(ml_dtypes.bfloat16))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = TEXTS.filter(lambda name: name != "__metadata__")
PROVENANCES = st.builds(
    Provenance,
    job=TEXTS,
    hashes=st.dictionaries(TEXTS, TEXTS, max_size=3),
    dtype=TEXTS,
    quantization=st.dictionaries(TEXTS, st.sampled_from((4, 8)), max_size=2),
    version=TEXTS,
    loras=st.lists(st.tuples(TEXTS, st.floats(allow_nan=False, allow_infinity=False)), max_size=2).map(tuple),
)
POINTS = st.builds(
    ResumePoint,
    stage=TEXTS,
    step=st.integers(0, 1000),
    arrays=st.dictionaries(NAMES, FLOATS | BFLOATS | INTEGERS, max_size=4),
    provenance=PROVENANCES,
)


def described(point: ResumePoint) -> tuple[Any, ...]:
    arrays = {name: (array.dtype, array.shape, array.tobytes()) for name, array in point.arrays.items()}
    return point.stage, point.step, point.provenance, arrays


def changed(data: bytes = PACKED, **fields: Any) -> bytes:
    """Return a resume point with other fields in its head; None removes one. The checksum stays as it was."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    head = {**json.loads(header["__metadata__"][KEY]), **fields}
    header["__metadata__"][KEY] = json.dumps({name: value for name, value in head.items() if value is not None})
    return framed(json.dumps(header).encode(), data[8 + size :])


def framed(header: bytes, values: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + values


def refusal(data: bytes) -> str:
    with pytest.raises(ResumeMismatch) as error:
        ResumePoint.unpack(data)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()
    return str(error.value)


@settings(deadline=None)
@given(POINTS)
def test_a_point_comes_back_bit_for_bit(point: ResumePoint) -> None:
    data = point.pack()
    assert described(ResumePoint.unpack(data)) == described(point)
    assert data[:1] != b"{", "that is how a pointer into the storage begins"


def test_an_array_that_is_a_view_comes_back() -> None:
    view = LATENTS.transpose(0, 4, 1, 2, 3)[:, ::2]
    back = ResumePoint.unpack(ResumePoint("denoise", 1, {"view": view}).pack())
    assert np.array_equal(back.arrays["view"], view)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed_unless_it_says_the_same(place: int, change: int) -> None:
    data = bytearray(PACKED)
    data[place] ^= change
    try:
        point = ResumePoint.unpack(bytes(data))
    except ResumeMismatch:
        return
    assert described(point) == described(POINT)


@settings(deadline=None)
@given(st.integers(0, len(PACKED) - 1))
def test_a_cut_one_is_refused(end: int) -> None:
    assert "damaged" in refusal(PACKED[:end])


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(framed))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert "damaged" in refusal(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", "damaged"),
        (PACKED + b"\0", "damaged"),
        (save({"video": LATENTS}), "damaged"),
        (save({"video": LATENTS}, {KEY: "null"}), "damaged"),
        (save({"video": LATENTS}, {KEY: "[" * 100_000}), "damaged"),
        (save({"video": LATENTS}, {KEY: '{"format":' + "[" * 100_000}), "damaged"),
        (save({"video": LATENTS.astype(np.int64)}, {KEY: "{}"}), "damaged"),
        (framed(b"[" * 100_000), "damaged"),
        (framed(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', bytes(4)), "damaged"),
        (framed(b'{"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}}', bytes(4)), "damaged"),
        (framed(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)), "damaged"),
        (struct.pack("<Q", 2**63) + bytes(100), "damaged"),
        (save({str(n): LATENTS for n in range(100)}, {KEY: "{}"}), "damaged .*100 arrays"),
        (changed(step=4), "damaged .*checksum"),
        (changed(stage="decode"), "damaged .*checksum"),
        (changed(provenance=dataclasses.asdict(MAKER)), "damaged .*checksum"),
        (changed(sha256=None), "damaged .*checksum"),
        (changed(step=None), "damaged .*step"),
        (changed(step=-3), "damaged .*step"),
        (changed(step=2**63), "damaged .*step"),
        (changed(step=1.5), "damaged .*step"),
        (changed(step=True), "damaged .*step"),
        (changed(step="3"), "damaged .*step"),
        (changed(stage="x" * 101), "damaged .*stage"),
        (changed(stage=3), "damaged .*stage"),
        (changed(provenance=[]), "damaged .*provenance"),
        (changed(provenance={"loras": [["a"]]}), "damaged .*loras"),
        (changed(format=0), "damaged .*format"),
        (changed(format=2), "newer version .*format 2"),
        (changed(format=2, sigmas=[1], step="third"), "newer version .*format 2"),
        (changed(sigmas=[1]), "newer version .*sigmas"),
        (changed(provenance={"kernels": "3"}), r"newer version .*provenance\.kernels"),
        (changed(**{"\x1b[2J\u202e": 1}), r"newer version .*x1b"),
    ],
)
def test_what_is_no_point_is_refused_in_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(ResumeMismatch, match=words):
        ResumePoint.unpack(data)
    refusal(data)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(dtype: Any, value: float) -> None:
    point = ResumePoint("denoise", 1, {"video": LATENTS, "audio": np.array([0, value], dtype)})
    assert "'audio' has values that are not finite" in refusal(point.pack())


@pytest.mark.parametrize("array", [np.zeros(1, np.int64), np.zeros(1, bool), np.zeros(1, "U3"), np.zeros(1, object)])
def test_an_array_of_another_type_is_not_packed(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="latents"):
        ResumePoint("denoise", 1, {"latents": array}).pack()


def test_too_many_bytes_are_neither_packed_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_point, "LARGEST", len(PACKED))
    assert described(ResumePoint.unpack(PACKED)) == described(POINT)
    monkeypatch.setattr(resume_point, "LARGEST", len(PACKED) - 1)
    assert f"{len(PACKED):,} bytes" in refusal(PACKED)
    with pytest.raises(ResumeMismatch, match="are the most"):
        POINT.pack()


def test_a_small_one_that_says_it_is_large_takes_no_memory() -> None:
    data = framed(b'{"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}}', bytes(4))
    tracemalloc.start()
    refusal(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job": "k"}, "another job"),
        ({"dtype": "float32"}, "another dtype"),
        ({"version": "2"}, "another version"),
        ({"hashes": {**MAKER.hashes, "checkpoint": "2" * 64}}, "another checkpoint"),
        ({"hashes": {**MAKER.hashes, "text_encoder": "2" * 64}}, "another text encoder"),
        ({"hashes": {"text_encoder": "1" * 64}}, "another checkpoint"),
        ({"hashes": {**MAKER.hashes, "\x1b[2J": "2" * 64}}, "another component"),
        ({"quantization": {}}, "another quantization of the transformer"),
        ({"quantization": {"transformer": 4}}, "another quantization of the transformer"),
        ({"quantization": {"transformer": 8, "text_encoder": 8}}, "another quantization of the component"),
        ({"loras": (("3" * 64, 0.5),)}, "other LoRAs"),
    ],
)
def test_another_makers_is_refused_and_says_why(change: Any, words: str) -> None:
    other = dataclasses.replace(MAKER, **change)
    point = ResumePoint.unpack(dataclasses.replace(POINT, provenance=other).pack())
    point.require(other)
    with pytest.raises(ResumeMismatch, match=f"^it was made with {words}$"):
        point.require(MAKER)


def test_neither_mlx_nor_a_pickle_is_needed() -> None:
    code = "import sys, ltx_models.resume_point; print([m for m in sys.modules if m.split('.')[0] in ('mlx', 'torch')])"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == "[]"
