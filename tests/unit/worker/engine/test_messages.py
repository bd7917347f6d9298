"""Test the messages between worker and engine: bytes cross beside the JSON, and what is no message is refused."""

import json
import os
import typing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_models.request import GenerationRequest
from ltx_worker.engine import messages
from ltx_worker.engine.messages import Blob, Previewed, Render, Stepped, TextEncoded
from ltx_worker.engine.packing.frames import read_frame, write_frame

REQUEST = GenerationRequest(prompt="a ball", seed=1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
BYTES = st.binary(max_size=300)
RENDERS = st.builds(
    Render,
    request=st.just(REQUEST),
    checkpoint_every=st.integers(0, 5),
    output=st.just(Path("/x/video.mp4")),
    resume=st.none() | BYTES,
    embeddings=st.dictionaries(TEXTS, BYTES, max_size=4),
)
MESSAGES = (
    st.builds(Stepped, step=st.just(1), steps=st.just(2), seconds=st.just(0.5), resume=st.none() | BYTES)
    | st.builds(Previewed, step=st.just(1), jpeg=BYTES)
    | st.builds(TextEncoded, fresh=st.dictionaries(TEXTS, BYTES, max_size=4))
)


@pytest.fixture
def pipe():
    made = connected()
    yield made
    for end in made:
        end.close()


def connected():
    read, write = os.pipe()
    return Connection(read, writable=False), Connection(write, readable=False)


@settings(deadline=None)
@given(RENDERS, MESSAGES)
def test_what_is_sent_is_received(command, message):
    reader, writer = connected()
    with reader, writer:
        messages.send(writer, command)
        assert messages.receive_command(reader) == command
        messages.send(writer, message)
        assert messages.receive_message(reader) == message


def test_bytes_lie_beside_the_json(pipe):
    reader, writer = pipe
    blob = bytes(range(256))
    messages.send(writer, Stepped(step=1, steps=2, seconds=0.5, resume=blob))
    head, blobs = read_frame(reader)
    assert (json.loads(head)["resume"], blobs) == (0, [blob])


def fields(kind, found):
    """Return the name of each field that is of plain bytes."""
    if typing.get_origin(kind) is typing.Annotated:
        return [] if kind == Blob else fields(typing.get_args(kind)[0], found)
    if kind is bytes:
        return [found]
    return [name for each in typing.get_args(kind) for name in fields(each, found)]


def test_every_field_of_bytes_is_a_blob():
    kinds = [*typing.get_args(messages.Command), *typing.get_args(messages.Message)]
    hints = [(kind, typing.get_type_hints(kind, include_extras=True)) for kind in kinds]
    found = [name for kind, of in hints for field, hint in of.items() for name in fields(hint, f"{kind}.{field}")]
    assert found == []
    assert fields(dict[str, bytes], "x") == ["x"]
    assert fields(bytes | None, "x") == ["x"]


@pytest.mark.parametrize("place", [1, -1, 2**70, "0", 0.0, True, [0], {"0": 0}])
def test_a_blob_that_is_not_there_makes_no_message(pipe, place):
    reader, writer = pipe
    write_frame(writer, json.dumps({"type": "previewed", "step": 1, "jpeg": place}).encode(), [b"jpeg"])
    with pytest.raises(ValueError, match="place of one of the frame's blobs"):
        messages.receive_message(reader)


@pytest.mark.parametrize(
    "head", [b"", b"{", b"[" * 10**4, b"\xff", b'{"type":"nonesuch"}', b'{"type":"stepped"}', b"0"]
)
def test_a_head_that_is_no_message_is_refused(pipe, head):
    reader, writer = pipe
    write_frame(writer, head)
    with pytest.raises(ValueError, match="validation error"):
        messages.receive_message(reader)
