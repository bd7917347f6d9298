"""Test the frames of the engine's pipes: a head and blobs, whole or told of as none, and never waited for in vain."""

import os
import threading
import tracemalloc
from multiprocessing.connection import Connection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_worker.engine.packing import frames
from ltx_worker.engine.packing.frames import COUNTS, MAGIC, BadFrame, read_frame, write_frame

FITS = 16_000
"""Bytes that a pipe takes though nobody reads, on every system."""
LARGE = 20 * 10**6


class Pipe:
    """Is a pipe; `fill` puts any bytes into it and closes its end."""

    def __enter__(self):
        read, write = os.pipe()
        self.reader, self.writer = Connection(read, writable=False), Connection(write, readable=False)
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.writer.close()

    def fill(self, data):
        os.write(self.writer.fileno(), data)
        self.writer.close()
        return self.reader


@pytest.fixture
def pipe():
    with Pipe() as made:
        yield made


def written(head, *blobs):
    with Pipe() as pipe:
        write_frame(pipe.writer, head, blobs)
        return os.read(pipe.reader.fileno(), 2 * FITS)


def frame(head, sizes, count=None):
    """Return the beginning of a frame that says so much of itself."""
    counts = COUNTS.pack(head, len(sizes) if count is None else count)
    return MAGIC + counts + b"".join(size.to_bytes(8, "little") for size in sizes)


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=500), st.lists(st.binary(max_size=500), max_size=5)), max_size=4))
def test_frames_come_back_one_after_another(sent):
    with Pipe() as pipe:
        for head, blobs in sent:
            write_frame(pipe.writer, head, blobs)
        assert [read_frame(pipe.reader) for _ in sent] == sent
        pipe.writer.close()
        with pytest.raises(EOFError):
            read_frame(pipe.reader)


WHOLE = written(b'{"type":"stepped"}', b"", b"a" * 300, b"b")


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_frame_is_an_end(end):
    with Pipe() as pipe, pytest.raises(EOFError):
        read_frame(pipe.fill(WHOLE[:end]))


@settings(deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: MAGIC + data))
def test_any_bytes_are_a_frame_or_an_end_or_none(data):
    with Pipe() as pipe:
        try:
            head, blobs = read_frame(pipe.fill(data))
        except (BadFrame, EOFError):
            return
        assert written(head, *blobs) == data[: len(written(head, *blobs))]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x04what", "does not begin"),
        (frame(2**32 - 1, []), "head has 4,294,967,295 bytes"),
        (frame(frames.LARGEST_HEAD + 1, []), "head has"),
        (frame(2, [], count=2**32 - 1), "more than 256 blobs"),
        (frame(2, [], count=frames.MOST_BLOBS + 1), "more than 256 blobs"),
        (frame(2, [2**64 - 1]), "blobs have 18,446,744,073,709,551,615 bytes"),
        (frame(2, [1, frames.LARGEST]), "blobs have"),
    ],
)
def test_a_frame_that_is_too_large_is_none_and_takes_no_memory(pipe, data, words):
    os.write(pipe.writer.fileno(), data)  # and the other side stays, and sends no more
    tracemalloc.start()
    with pytest.raises(BadFrame, match=words):
        read_frame(pipe.reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


@pytest.mark.parametrize(("limit", "most"), [("LARGEST_HEAD", 3), ("LARGEST", 5), ("MOST_BLOBS", 1)])
def test_nothing_of_a_frame_that_is_too_large_is_written(pipe, monkeypatch, limit, most):
    monkeypatch.setattr(frames, limit, most)
    with pytest.raises(BadFrame):
        write_frame(pipe.writer, b"head", [b"abc", b"def"])
    assert not pipe.reader.poll()


@pytest.mark.parametrize("blocking", [True, False])
def test_a_large_blob_is_neither_encoded_nor_copied(pipe, blocking):
    blob = os.urandom(1000) * (LARGE // 1000)
    os.set_blocking(pipe.writer.fileno(), blocking)
    tracemalloc.start()
    thread = threading.Thread(target=write_frame, args=(pipe.writer, b"head", [blob, b"", b"x"]))
    thread.start()
    head, received = read_frame(pipe.reader)
    thread.join()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (head, received) == (b"head", [blob, b"", b"x"])
    assert peak < 1.1 * LARGE, "what was received, and nothing else of that size"


def test_a_reader_that_reads_nothing_is_not_waited_for_forever(pipe):
    os.set_blocking(pipe.writer.fileno(), False)
    with pytest.raises(TimeoutError, match=r"has read nothing for 0\.2 s"):
        write_frame(pipe.writer, b"head", [bytes(LARGE)], patience=0.2)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_leaves_is_gone(pipe, blocking):
    os.set_blocking(pipe.writer.fileno(), blocking)
    threading.Timer(0.2, pipe.reader.close).start()
    with pytest.raises(BrokenPipeError):
        write_frame(pipe.writer, b"head", [bytes(LARGE)])
