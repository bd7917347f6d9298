"""Test how pictures and clips get to a job: what the options say, what the files claim, what a worker accepts."""

import hashlib
import os
import struct
import threading

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from ltx_client.cli import main
from ltx_client.errors import UsageError
from ltx_client.farm.jobs.files import missing_inputs, store_inputs
from ltx_client.farm.jobs.inputs import MAX_BYTES, address_inputs
from ltx_client.shared.storage.store import StorageError, input_name
from ltx_client.terminal.arguments.options import job_from_options, video_options
from ltx_models.errors import FaultKind, InvalidRequest, MachineFault
from ltx_models.request import ConditioningItem, GenerationRequest
from ltx_worker.attempt.inputs import fetch_inputs
from tests.storages import made


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "frame.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


def parse(*arguments):
    """Return the job that a command line describes."""
    prepared = []

    @click.command()
    @video_options
    def command(**options):
        prepared.append(job_from_options(**options))

    result = CliRunner().invoke(command, ["a red ball", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return prepared[0]


def with_image(source, **fields):
    return GenerationRequest(prompt="x", conditioning=(ConditioningItem(kind="image", source=str(source), **fields),))


@pytest.mark.parametrize(
    ("suffix", "frame", "strength"), [("", 0, 1.0), ("@8", 8, 1.0), ("@last", 24, 1.0), ("@16:0.5", 16, 0.5)]
)
def test_an_image_option(picture, suffix, frame, strength):
    job, inputs = parse("--image", f"{picture}{suffix}")
    digest = hashlib.sha256(picture.read_bytes()).hexdigest()
    assert inputs == {digest: picture}
    (item,) = job.request.conditioning
    assert (item.source, item.frame, item.strength) == (f"sha256:{digest}", frame, strength)
    assert item.crop
    assert item.blur
    assert item.compress


def test_several_images_and_switches(picture):
    job, inputs = parse("--image", picture, "--image", f"{picture}@last", "--no-blur", "--no-compress")
    assert [item.frame for item in job.request.conditioning] == [0, 24]
    assert not any(item.blur or item.compress for item in job.request.conditioning)
    assert len(inputs) == 1


def test_a_file_whose_name_has_an_at_sign(picture):
    strange = picture.rename(picture.with_name("me@8"))
    job, _ = parse("--image", strange)
    assert job.request.conditioning[0].frame == 0


@pytest.mark.parametrize(("seconds", "fps", "frames"), [(4, None, 49), (4, 24, 97), (0.1, None, 1), (2, None, 25)])
def test_seconds_become_frames(seconds, fps, frames):
    arguments = ["--seconds", seconds] + (["--fps", fps] if fps else [])
    assert parse(*arguments)[0].request.num_frames == frames


BAD_OPTIONS = {
    "no file": (["--image", "nothing.png"], "cannot read nothing.png: No such file or directory"),
    "frame outside": (["--image", "{picture}@25"], "frame 25"),
    "strength": (["--image", "{picture}@0:1.5"], "conditioning strength 1.5 is out of range"),
    "no number": (["--image", "{picture}@0:1.5.2"], "'1.5.2', which is not a number"),
    "a picture as a clip": (["--video", "{picture}"], "is PNG"),
    "frames and seconds": (["--frames", "25", "--seconds", "4"], "--frames and --seconds were both given"),
    "no length": (["--seconds", "0"], "--seconds 0 is invalid: it is not a length"),
    "too long a length": (["--seconds", "1e308"], "--seconds 1e+308 at 12 frames a second is not a number of frames"),
    "a length without a rate": (
        ["--seconds", "1", "--fps", "nan"],
        "--seconds 1 at nan frames a second is not a number",
    ),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_media_is_refused_before_anything_starts(picture, tmp_path, monkeypatch, case):
    arguments, sentence = BAD_OPTIONS[case]
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LTX_BROKER_URL", raising=False)
    refused = CliRunner().invoke(main, ["render", "x", *(text.format(picture=picture) for text in arguments)])
    assert refused.exit_code == 2
    assert sentence in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "home").exists()


HEADERS = {
    "a.jpg": (b"\xff\xd8\xff\xe0" + b"\0" * 40, "image"),
    "a.webp": (b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 40, "image"),
    "a.mp4": (b"\0\0\0\x20ftypisom" + b"\0" * 40, "video"),
    "a.mov": (b"\0\0\0\x14ftypqt  " + b"\0" * 40, "video"),
    "a.webm": (b"\x1a\x45\xdf\xa3" + b"\0" * 40, "video"),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_file_is_judged_by_how_it_begins(tmp_path, name, kind):
    header, holds = HEADERS[name]
    path = tmp_path / name
    path.write_bytes(header)
    request = GenerationRequest(prompt="x", conditioning=(ConditioningItem(kind=kind, source=str(path)),))
    if kind == holds:
        assert len(address_inputs(request)[1]) == 1
    else:
        with pytest.raises(UsageError, match=f"use --{holds} for it"):
            address_inputs(request)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC or AVIF.*export it as JPEG or PNG"),
        (b"hello", "unknown format, and PNG, JPEG and WebP are read; export it as PNG first"),
        (b"PK\x03\x04" + bytes(26), "it is a ZIP archive, and PNG, JPEG and WebP are read; export it as PNG first"),
        (b"\x1f\x8b\x08" + bytes(20), "it is compressed by gzip, and PNG, JPEG and WebP are read"),
        (b"RIFF\x24\0\0\0AVI LIST", "it is AVI, WAV or another RIFF file, and PNG, JPEG and WebP are read"),
        (b"The wide road", "unknown format, and PNG, JPEG and WebP are read; export it as PNG first"),
        (b"", "IMG_0001 is empty"),
    ],
)
def test_what_cannot_be_used_says_what_could(tmp_path, content, words):
    path = tmp_path / "IMG_0001"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        address_inputs(with_image(path))


def test_a_file_that_is_too_large(tmp_path, monkeypatch, picture):
    monkeypatch.setitem(MAX_BYTES, "image", 10)
    with pytest.raises(UsageError, match="at most"):
        address_inputs(with_image(picture))


def test_a_worker_fetches_and_verifies(tmp_path, picture):
    storage = made(str(tmp_path / "store"))
    request, inputs = address_inputs(with_image(picture, frame=8))
    ((digest, _),) = inputs.items()
    storage.put(picture, input_name(digest))
    folder = tmp_path / "render"
    folder.mkdir()
    fetched = fetch(request, storage, folder)
    assert fetched.conditioning[0].source == str(folder / "image 1")
    assert (folder / "image 1").read_bytes() == picture.read_bytes()
    assert fetched.conditioning[0].frame == 8


def fetch(request, storage, folder):
    return fetch_inputs(request, storage, folder, retry_for=0, leaving=threading.Event())


def test_a_worker_reads_no_file_of_its_own(tmp_path, picture):
    storage = made(str(tmp_path / "store"))
    for source in (str(picture), "/etc/passwd", "sha256:../../x", "sha256:" + "0" * 63):
        with pytest.raises(InvalidRequest, match="no content address"):
            fetch(with_image(source), storage, tmp_path)


def test_a_worker_refuses_what_is_not_there_or_was_changed(tmp_path, picture):
    storage = made(str(tmp_path / "store"))
    request, inputs = address_inputs(with_image(picture))
    with pytest.raises(StorageError, match="cannot read"):
        fetch(request, storage, tmp_path)
    storage.put(picture, input_name(next(iter(inputs))))
    for content in (b"other", bytes(picture.stat().st_size)):
        (tmp_path / "store" / input_name(next(iter(inputs)))).write_bytes(content)
        with pytest.raises(MachineFault, match=r"SHA-256 differs.*; to replace it, submit the job again") as raised:
            fetch(request, storage, tmp_path)
        assert (raised.value.kind, raised.value.confirmed) == (FaultKind.INPUT, False)


DAMAGES = {
    "changed": lambda path, size: path.write_bytes(bytes(size)),
    "cut short": lambda path, size: path.write_bytes(path.read_bytes()[: size // 2]),
    "too long": lambda path, size: path.write_bytes(path.read_bytes() + b"x"),
    "endless": lambda path, size: os.truncate(path, 2**40),
    "a link": lambda path, size: (path.rename(path.with_name("moved")), path.symlink_to("moved")),
    "a pipe": lambda path, size: (path.unlink(), os.mkfifo(path)),
    "gone": lambda path, size: path.unlink(),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", DAMAGES)
def test_who_submits_replaces_what_is_damaged_in_the_storage(tmp_path, picture, damage):
    """Otherwise a picture that was damaged once would fail for ever: its name is its content's."""
    storage = made(str(tmp_path / "store"))
    request, inputs = address_inputs(with_image(picture))
    (sha256,) = inputs
    stored, whole = tmp_path / "store" / input_name(sha256), picture.read_bytes()
    store_inputs(storage.url, inputs)
    assert missing_inputs(storage.url, [sha256]) == []
    DAMAGES[damage](stored, len(whole))
    assert missing_inputs(storage.url, [sha256]) == [sha256]
    store_inputs(storage.url, inputs)
    assert stored.read_bytes() == whole and not stored.is_symlink()
    fetch(request, storage, tmp_path)


def test_what_is_there_and_whole_is_not_sent_again(tmp_path, picture):
    storage = made(str(tmp_path / "store"))
    _, inputs = address_inputs(with_image(picture))
    store_inputs(storage.url, inputs)
    (stored,) = (tmp_path / "store" / "inputs").iterdir()
    before = stored.stat()
    store_inputs(storage.url, inputs)
    assert stored.stat().st_ino == before.st_ino


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_queued(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 20_000, 20_000, 8, 2, 0, 0, 0))
    with pytest.raises(UsageError, match=r"bomb\.png is too large: it is 20000x20000, 400 megapixels; at most 80"):
        address_inputs(with_image(path))
