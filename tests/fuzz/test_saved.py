"""Fuzz what an engine reads of other attempts from Redis: resume points, and text embeddings."""

import io
import json
import struct
import zipfile

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save

from ltx_models.errors import ResumeMismatch
from ltx_models.resume_point import KEY, Provenance, ResumePoint
from ltx_worker.engine.packing import embeddings, resume_points
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import mutated_bytes, mutated_json, odd_bytes, odd_json

MAKER = Provenance(
    hashes={"checkpoint": "c", "text_encoder": "t"}, dtype="bfloat16", quantization={"transformer": 8}, version="1"
)
OLD_MAKER = json.dumps({"checkpoint": "c", "text_encoder": "t", "dtype": "bfloat16", "version": "1", "job": ""})
LATENTS = np.linspace(-1, 1, 96, dtype=np.float32).reshape(1, 4, 2, 3, 4)
EXTRA = np.ones((1, 2, 4), np.float32)
POINTS = (
    ResumePoint("denoise", 3, {"latents": LATENTS}, MAKER).pack(),
    ResumePoint("denoise", 3, {"latents": LATENTS, "extra": EXTRA}, MAKER).pack(),
    ResumePoint("refine", 0, {"video": LATENTS, "audio": EXTRA.astype(ml_dtypes.bfloat16)}, MAKER).pack(),
)


def old(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **{"latents": LATENTS, "step": 3, "maker": OLD_MAKER, **arrays})
    return buffer.getvalue()


OLD_POINTS = (old(), old(extra=EXTRA))
SHAPE = (1, 3, 8)
EMBEDDINGS = (
    embeddings.pack(np.full(SHAPE, 1 / 3, np.float32), "maker"),
    embeddings.pack(np.full(SHAPE, 0.5, np.float32), "maker"),
)


def read_point(data):
    try:
        point = resume_points.unpack(data, MAKER)
    except ResumeMismatch as error:
        return str(error)
    assert point.provenance == MAKER
    assert 0 <= point.step <= 1000
    for array in point.arrays.values():
        assert array.dtype.kind == "u" or np.isfinite(array).all()
    return None


def read_embedding(data):
    try:
        embedding = embeddings.unpack(data, "maker", SHAPE)
    except embeddings.EmbeddingRefused as error:
        return str(error)
    assert embedding.dtype == np.float32 and embedding.shape == SHAPE
    return None


def entry(header, values=b"\0" * 16, version=b"\x01\x00"):
    """Return an array as bytes, with any header."""
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + values


HEADERS = st.sampled_from(
    [
        b"{'descr': '%s', 'fortran_order': %s, 'shape': %s, }" % (kind, order, shape)
        for kind in (b"<f4", b"<f8", b"|O", b"<U9", b"<i8", b"<M8[s]", b"V", b"<f4,<f4", b"\\ud800", b"<c16")
        for order in (b"False", b"True", b"1")
        for shape in (b"()", b"(4,)", b"(1152921504606846976,)", b"(-1,)", b"(2**99,)", b"(" * 500, b"(4.0,)", b"None")
    ]
    + [b"", b"{", b"[" * 5000, b"{'descr': " + b"(" * 190 + b")" * 190 + b"}", b"import os", b"\xff" * 9]
)


@st.composite
def archives(draw, valid):
    """Draw the same archives with valid checksums and other arrays in them, or compressed."""
    buffer = io.BytesIO()
    kind = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))
    with zipfile.ZipFile(io.BytesIO(draw(st.sampled_from(valid)))) as old, zipfile.ZipFile(buffer, "w", kind) as new:
        names = old.namelist()
        changed = draw(st.sampled_from(names))
        for name in names:
            data = old.read(name)
            if name == changed:
                version = draw(st.sampled_from((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00")))
                odd = HEADERS.map(lambda header, version=version: entry(header, version=version))
                data = draw(mutated_bytes((data,)) | odd | st.just(b"\0" * 10**6))
            new.writestr(name, data)
    return buffer.getvalue()


def other_makers():
    """Draw resume points whose makers are invalid."""
    texts = ("[]", "null", "3", "[" * 5000, '"x"', "{}", "\ud800", "{" * 10)
    archives = [old(maker=text) for text in texts] + [old(step=step) for step in (np.inf, 2**63, [1, 2], "x", b"y")]
    return st.sampled_from(archives)


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def headed(header, data):
    """Return a resume point with another header."""
    return struct.pack("<Q", len(header)) + header + data[8 + int.from_bytes(data[:8], "little") :]


@st.composite
def headers(draw):
    """Draw resume points whose headers, or whose heads in them, have other values."""
    data = draw(st.sampled_from(POINTS))
    header = header_of(data)
    if draw(st.booleans()):
        return headed(draw(mutated_json((header,)) | odd_json()), data)
    head = draw(mutated_json((json.loads(header["__metadata__"][KEY]),)) | odd_json()).decode(errors="replace")
    if draw(st.booleans()):
        return save({"latents": LATENTS}, {KEY: head})
    header["__metadata__"][KEY] = head
    return headed(json.dumps(header).encode(), data)


def test_resume_points(campaign):
    odd = odd_bytes() | odd_json().map(lambda header: headed(header, POINTS[0]))
    campaign(Kind("resume points", read_point, POINTS, mutated_bytes(POINTS) | headers(), odd))


def test_resume_points_of_the_version_before(campaign):
    mutated = mutated_bytes(OLD_POINTS) | archives(OLD_POINTS) | other_makers()
    campaign(Kind("older resume points", read_point, OLD_POINTS, mutated, odd_bytes()))


def test_embeddings(campaign):
    mutated = mutated_bytes(EMBEDDINGS) | archives(EMBEDDINGS)
    campaign(Kind("text embeddings", read_embedding, EMBEDDINGS, mutated, odd_bytes()))
