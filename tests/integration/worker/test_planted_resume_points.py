"""Test values that somebody with a worker's rights may have put where an engine reads: it starts again."""

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest

from ltx_client.farm.jobs.prepare import prepare
from ltx_client.protocol.jobs import job_digest, new_job_id
from ltx_models.families.variants import find_variant
from ltx_models.request import GenerationRequest
from ltx_models.resume_point import KEY, ResumePoint
from ltx_worker.engine.messages import Decoded, Render, Resuming, Stepped, TextEncoded
from ltx_worker.engine.supervisor import Engine

REQUEST = GenerationRequest(
    prompt="a red ball rolls to the right on a navy background", num_steps=4, width=64, height=64, num_frames=9, seed=0
).resolve(find_variant("pocket"))
OTHER = dataclasses.replace(REQUEST, prompt="a blue square falls on a pink background")


def digest_of(request, job_id="one"):
    return job_digest(prepare(request, job_id=job_id).job)


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """Render with one engine, which no value may end; return its messages, and the video's SHA-256."""
    engine = Engine("pocket")
    output = tmp_path_factory.mktemp("videos") / "video.mp4"

    def of(request=REQUEST, job="", **fields):
        command = Render(
            request=request, checkpoint_every=0, output=output, job=job or digest_of(request), save_every=0.0, **fields
        )
        messages = list(engine.render(lambda _: command, lambda: False))
        assert isinstance(messages[-1], Decoded), messages[-1]
        return messages, engine.video.result(timeout=60).sha256

    yield of
    engine.close()


@pytest.fixture(scope="module")
def undisturbed(render):
    return render()


@pytest.fixture(scope="module")
def point(undisturbed):
    """Return the resume point after step 2, as it was saved."""
    messages, _ = undisturbed
    return next(message.resume for message in messages if isinstance(message, Stepped) and message.step == 2)


def changed(data, step=None, **arrays):
    """Return a resume point, whole in itself, with another step or other arrays."""
    point = ResumePoint.unpack(data)
    step = point.step if step is None else step
    return ResumePoint(point.stage, step, {**point.arrays, **arrays}, point.provenance).pack()


def made_by(data, **fields):
    point = ResumePoint.unpack(data)
    return dataclasses.replace(point, provenance=dataclasses.replace(point.provenance, **fields)).pack()


def headed(data, **fields):
    """Return a resume point whose head says something else; its checksum stays."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"][KEY] = json.dumps({**json.loads(header["__metadata__"][KEY]), **fields})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def old(data, maker=(), **arrays):
    """Return a resume point as the version before has packed it."""
    point = ResumePoint.unpack(data)
    made = point.provenance
    described = {**made.hashes, "dtype": made.dtype, "version": made.version, "job": made.job, **dict(maker)}
    buffer = io.BytesIO()
    np.savez(buffer, **{"step": point.step, "maker": json.dumps(described), **point.arrays, **arrays})
    return buffer.getvalue()


def bomb(data):
    """Return a few bytes whose header says 4 GB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        header = str({"descr": "<f4", "fortran_order": False, "shape": (1, 1, 1, 1, 2**30)}).encode().ljust(118) + b"\n"
        file.writestr("latents.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return buffer.getvalue()


def compressed(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in whole.namelist():
            new.writestr(name, whole.read(name))
    return buffer.getvalue()


def framed(header):
    return len(header).to_bytes(8, "little") + header + bytes(4)


LATENTS = np.zeros((1, 1, 1, 1, 1), np.float32)
HOSTILE = {
    "empty": lambda data: b"",
    "a pickle": lambda data: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "cut": lambda data: data[: len(data) // 2],
    "its end cut": lambda data: data[:-10],
    "a changed byte": lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
    "a bomb": lambda data: framed(b'{"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}}'),
    "a huge header": lambda data: (2**62).to_bytes(8, "little") + data[8:],
    "step -3": lambda data: headed(data, step=-3),
    "step 3": lambda data: headed(data, step=3),
    "step 0": lambda data: changed(data, step=0),
    "step 5 of 4": lambda data: changed(data, step=5),
    "a huge step": lambda data: headed(data, step=2**63 - 1),
    "step 1.5": lambda data: headed(data, step=1.5),
    "no step": lambda data: headed(data, step=None),
    "a newer format": lambda data: headed(data, format=2),
    "a newer field": lambda data: headed(data, sigmas=[1.0]),
    "another stage": lambda data: dataclasses.replace(ResumePoint.unpack(data), stage="decode").pack(),
    "another shape": lambda data: changed(data, latents=LATENTS),
    "other axes": lambda data: changed(data, latents=LATENTS[0]),
    "doubles": lambda data: changed(data, latents=ResumePoint.unpack(data).arrays["latents"].astype(np.float64)),
    "not finite": lambda data: changed(data, latents=ResumePoint.unpack(data).arrays["latents"] * np.float32("nan")),
    "more tokens": lambda data: changed(data, extra=np.zeros((1, 7, 128), np.float32)),
    "more arrays": lambda data: changed(data, audio=LATENTS),
    "no arrays": lambda data: dataclasses.replace(ResumePoint.unpack(data), arrays={}).pack(),
    "another checkpoint": lambda data: made_by(data, hashes={"checkpoint": "0" * 64}),
    "another version": lambda data: made_by(data, version="0"),
    "another dtype": lambda data: made_by(data, dtype="mlx.core.float16"),
    "another quantization": lambda data: made_by(data, quantization={"transformer": 3}),
    "a LoRA": lambda data: made_by(data, loras=(("0" * 64, 1.0),)),
    "another job": lambda data: made_by(data, job=digest_of(REQUEST, "two")),
    "another request": lambda data: made_by(data, job=digest_of(OTHER)),
    "no job": lambda data: made_by(data, job=""),
    "old, an array of objects": lambda data: old(data, latents=np.array([{"a": 1}], object)),
    "old, cut": lambda data: old(data)[:-10],
    "old, a bomb": bomb,
    "old, compressed": lambda data: compressed(old(data)),
    "old, step 0": lambda data: old(data, step=0),
    "old, step 5 of 4": lambda data: old(data, step=5),
    "old, a huge step": lambda data: old(data, step=2**63 - 1),
    "old, another shape": lambda data: old(data, latents=LATENTS),
    "old, more tokens": lambda data: old(data, extra=np.zeros((1, 7, 128), np.float32)),
    "old, another checkpoint": lambda data: old(data, {"checkpoint": "0" * 64}),
    "old, another version": lambda data: old(data, {"version": "0"}),
    "old, another job": lambda data: old(data, {"job": digest_of(REQUEST, "two")}),
    "old, no job": lambda data: old(data, {"job": ""}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_resume_point_that_is_not_right_means_begin_again(render, undisturbed, point, name):
    messages, sha256 = render(resume=HOSTILE[name](point))
    told = [message for message in messages if isinstance(message, Resuming)]
    assert told[-1].step == 0
    assert told[-1].reason
    assert [message.step for message in messages if isinstance(message, Stepped)] == [1, 2, 3, 4]
    assert sha256 == undisturbed[1]


@pytest.mark.parametrize("packed", [lambda data: data, old], ids=["new", "of the version before"])
def test_the_right_one_is_taken(render, undisturbed, point, packed):
    messages, sha256 = render(resume=packed(point))
    assert [message.step for message in messages if isinstance(message, Resuming)] == [2]
    assert [message.step for message in messages if isinstance(message, Stepped)] == [3, 4]
    assert sha256 == undisturbed[1]


def test_another_jobs_latents_are_not_taken(render, undisturbed):
    messages, _ = render(OTHER)
    theirs = next(message.resume for message in messages if isinstance(message, Stepped) and message.step == 3)
    for job in (digest_of(REQUEST), digest_of(OTHER, new_job_id())):
        messages, _ = render(REQUEST, job=job, resume=theirs)
        (told,) = (message for message in messages if isinstance(message, Resuming))
        assert (told.step, told.reason) == (0, "it was made with another job")


def test_an_embedding_of_another_text_is_not_taken(render, undisturbed):
    theirs, _ = render(OTHER)
    (text,) = (message for message in theirs if isinstance(message, TextEncoded))
    hostile = text.fresh[OTHER.prompt]
    for data in (hostile, hostile[:-20], b"", bomb(b""), b"\x80\x04."):
        messages, sha256 = render(REQUEST, embeddings={REQUEST.prompt: data})
        (text,) = (message for message in messages if isinstance(message, TextEncoded))
        assert REQUEST.prompt in text.fresh
        assert sha256 == undisturbed[1]
