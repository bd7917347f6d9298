"""Fuzz what an engine reads of other attempts from Redis: resume points, and text embeddings."""

import io
import zipfile
from dataclasses import asdict

import numpy as np
from hypothesis import strategies as st

from ltx_models.events import ResumePoint
from ltx_worker.engine.packing import embeddings, resume_points
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import mutated_bytes, odd_bytes

MAKER = resume_points.Maker(checkpoint="c", text_encoder="t", dtype="bfloat16", version="1")
LATENTS = np.linspace(-1, 1, 96, dtype=np.float32).reshape(1, 4, 2, 3, 4)
POINTS = (
    resume_points.pack(ResumePoint(3, LATENTS), MAKER),
    resume_points.pack(ResumePoint(3, LATENTS, np.ones((1, 2, 4), np.float32)), MAKER),
)
SHAPE = (1, 3, 8)
EMBEDDINGS = (
    embeddings.pack(np.full(SHAPE, 1 / 3, np.float32), "maker"),
    embeddings.pack(np.full(SHAPE, 0.5, np.float32), "maker"),
)


def read_point(data):
    try:
        point = resume_points.unpack(data, MAKER)
    except resume_points.ResumeRefused as error:
        return str(error)
    assert point.latents.dtype == np.float32 and point.latents.ndim == 5
    assert np.isfinite(point.latents).all()
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
    archive = [io.BytesIO() for _ in texts]
    for buffer, text in zip(archive, texts, strict=True):
        np.savez(buffer, latents=LATENTS, step=3, maker=text)
    for step in (np.inf, 2**63, [1, 2], "x", b"y"):
        archive.append(io.BytesIO())
        np.savez(archive[-1], latents=LATENTS, step=step, maker=str(asdict(MAKER)).replace("'", '"'))
    return st.sampled_from([buffer.getvalue() for buffer in archive])


def test_resume_points(campaign):
    mutated = mutated_bytes(POINTS) | archives(POINTS) | other_makers()
    campaign(Kind("resume points", read_point, POINTS, mutated, odd_bytes()))


def test_embeddings(campaign):
    mutated = mutated_bytes(EMBEDDINGS) | archives(EMBEDDINGS)
    campaign(Kind("text embeddings", read_embedding, EMBEDDINGS, mutated, odd_bytes()))
