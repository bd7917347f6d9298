"""Test what --image and --video may say, in commands and batches, and the sentences of their refusals."""

import json
import struct
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from ltx_client.cli import main
from ltx_client.farm.jobs.inputs import clip_parts
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.protocol.jobs import Job, Relations, parse_job
from ltx_client.protocol.versions.features import CLIP_PARTS
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.terminal.arguments.media_options import media_item
from ltx_client.terminal.arguments.options import job_from_options, video_options
from ltx_client.terminal.notices.wait_reasons import tell_who_waits
from ltx_models.errors import InvalidRequest
from ltx_models.files.formats import format_of
from ltx_models.request import LAST_FRAME, ConditioningItem, GenerationRequest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a clip of 5 s, according to its header, and a picture."""
    header = box(b"ftyp", b"isom", bytes(4)) + box(b"moov", full_box(b"mvhd"), track())
    (tmp_path / "clip.mp4").write_bytes(header)
    live = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff\x15\x49\xa9\x66\x80"
    (tmp_path / "live.webm").write_bytes(live)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LTX_BROKER_URL", raising=False)
    return tmp_path


def box(name, *content):
    data = b"".join(content)
    return (8 + len(data)).to_bytes(4, "big") + name + data


def full_box(name, scale=1_000, duration=5_000):
    return box(name, bytes(12), scale.to_bytes(4, "big"), duration.to_bytes(4, "big"))


def track():
    handler = box(b"hdlr", bytes(8), b"vide", bytes(13))
    return box(b"trak", box(b"mdia", full_box(b"mdhd"), handler))


def parsed(text, kind="video"):
    item = media_item(kind, text)
    return item.source, item.start, item.stop, item.frame, item.strength


FORMS = {
    "clip.mp4": ("clip.mp4", None, None, 0, 1.0),
    "clip.mp4@2": ("clip.mp4", 2.0, None, 0, 1.0),
    "clip.mp4@2.5s": ("clip.mp4", 2.5, None, 0, 1.0),
    "clip.mp4@0:03": ("clip.mp4", 3.0, None, 0, 1.0),
    "clip.mp4@1:02:03.5": ("clip.mp4", 3723.5, None, 0, 1.0),
    "clip.mp4@start": ("clip.mp4", 0.0, None, 0, 1.0),
    "clip.mp4[1-2.5]": ("clip.mp4", 1.0, 2.5, 0, 1.0),
    "clip.mp4[ 0:01 - 0:02 ]": ("clip.mp4", 1.0, 2.0, 0, 1.0),
    "clip.mp4@8:0.5": ("clip.mp4", None, None, 8, 0.5),
    "clip.mp4@16:1": ("clip.mp4", None, None, 16, 1.0),
    "clip.mp4[1-2]@16": ("clip.mp4", 1.0, 2.0, 16, 1.0),
    "clip.mp4[1-2]@16:0.8": ("clip.mp4", 1.0, 2.0, 16, 0.8),
    "take [old].mp4[1-2]": ("take [old].mp4", 1.0, 2.0, 0, 1.0),
}


@pytest.mark.parametrize("text", FORMS)
def test_what_names_a_clip(folder, text):
    assert parsed(text) == FORMS[text]


@pytest.mark.parametrize("name", ["clip@2", "clip[1-2]", "me@8:0.5", "x@start", "a@1:30", "clip.mp4[1-2]@8"])
def test_a_file_that_is_called_so_is_that_file(folder, name):
    (folder / "clip.mp4").rename(folder / name)
    assert parsed(name) == (name, None, None, 0, 1.0)
    assert parsed(f"{name}[1-2]") == (name, 1.0, 2.0, 0, 1.0)
    assert parsed(f"{name}@2") == (name, 2.0, None, 0, 1.0)


def test_what_names_a_picture_is_as_before(folder):
    assert parsed("picture.png@8", "image") == ("picture.png", None, None, 8, 1.0)
    assert parsed("picture.png@last:0.8", "image") == ("picture.png", None, None, LAST_FRAME, 0.8)


SAID = {
    "clip.mp4": "reads 3.96–5.00 s of clip.mp4 as 25 frames; the video continues from them",
    "clip.mp4@1": "reads 1.00–2.04 s of clip.mp4 as 25 frames; the video continues from them",
    "clip.mp4[0-1]": "reads 0.29–1.00 s of clip.mp4 as 17 frames; the video continues from them",
    "clip.mp4[0-1]@16:0.5": "reads 0.00–0.71 s of clip.mp4 as 17 frames; they are shown from frame 16 on",
    "live.webm": "reads the end of live.webm as 25 frames; the video continues from them",
    "live.webm@2": "reads 2.00–3.04 s of live.webm as 25 frames; the video continues from them",
}
SIZE = ["--fps", "24", "--frames", "97"]


@pytest.mark.parametrize("text", SAID)
def test_a_dry_run_says_which_seconds_are_read(folder, text):
    said = CliRunner().invoke(main, ["submit", "a red ball", "--video", text, *SIZE, "--dry-run"])
    assert (said.exit_code, said.stderr) == (0, SAID[text] + "\n")


def test_a_dry_run_of_a_batch_says_so_once(folder):
    lines = [json.dumps({"prompt": "a red ball", "video": "clip.mp4[0-1]", "seed": seed}) for seed in range(3)]
    (folder / "list.jsonl").write_text("\n".join(lines))
    said = CliRunner().invoke(main, ["batch", "list.jsonl", *SIZE, "--dry-run"])
    assert (said.exit_code, said.stderr) == (0, SAID["clip.mp4[0-1]"] + "\n")


def test_programs_are_told_too(folder):
    job, inputs = prepared("--video", "clip.mp4", *SIZE)
    (part,) = clip_parts(job.request, inputs)
    assert part._asdict() == pytest.approx(
        {"name": "clip.mp4", "start": 5 - 25 / 24, "stop": 5.0, "frames": 25, "frame": 0}
    )


def prepared(*arguments):
    found = []

    @click.command()
    @video_options
    def command(**options):
        found.append(job_from_options(**options))

    assert CliRunner().invoke(command, ["a red ball", *arguments], catch_exceptions=False).exit_code == 0
    return found[0]


WRONG = {
    "after the end": ("clip.mp4@7", "clip.mp4 has 5.00 s, and second 7.00 was asked for"),
    "past the end": ("clip.mp4[1-9]", "clip.mp4 has 5.00 s, and the part 1.00–9.00 s was asked for"),
    "backwards": ("clip.mp4[2-1]", "the part 2–1 s of a clip ends before it begins"),
    "nothing": ("clip.mp4[2-2]", "ends before it begins"),
    "no times": ("clip.mp4[a-b]", "has 'a' where a time should be; use seconds or m:ss"),
    "half a part": ("clip.mp4[2-]", "has '' where a time should be"),
    "seconds beyond 59": ("clip.mp4[0-1:75]", "has '1:75' where a time should be"),
    "no word": ("clip.mp4@end", "has '@end' after the file's name, which is invalid"),
    "negative": ("clip.mp4@-1", "has '@-1' after the file's name"),
    "an open bracket": ("clip.mp4[1-2", "has '[1-2' after the file's name"),
    "nothing left": ("clip.mp4[0-5]", "leaves none to render; choose at most 3.71 s of it"),
    "a file that is not there": ("none.mp4[1-2]", "cannot read none.mp4: No such file"),
    "a folder": ("home", "cannot read home: it is not a file"),
    "digits without end": ("clip.mp4@" + "9" * 5_000, "is out of range"),
    "a very long name": ("x" * 5_000, "has more than 4,096 characters"),
}
URLS = {
    "https://example.org/a.png": "the URL https://example.org/a.png, and URLs are not read; download it first",
    "HTTP://example.org/a.png@8": "and URLs are not read; download it first, and give the file",
    "s3://bucket/key.mp4[1-2]": "and URLs are not read; download it first",
    "https://ann:pass@example.org/a.png?token=abc#x": "the URL https://example.org/a.png, and URLs",
    "data:image/png;base64," + "A" * 9_000: "the URL data:…, and URLs are not read; save its content as a file",
    "file:///tmp/a%20b.png": "and URLs are not read; give the path itself, /tmp/a b.png",
    "file://localhost/tmp/x": "give the path itself, /tmp/x",
}


def refused(command):
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert "pass" not in result.stderr and "abc" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_read_is_refused_in_a_sentence(folder, kind):
    text, sentence = WRONG[kind]
    (folder / "home").mkdir()
    assert sentence in refused(["render", "x", "--video", text, *SIZE])
    assert not list((folder / "home").iterdir())


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("option", ["image", "video"])
def test_urls_are_not_read_anywhere(folder, url, option):
    assert URLS[url] in refused(["render", "x", f"--{option}", url])
    (folder / "shots").mkdir()
    (folder / "shots/list.jsonl").write_text(json.dumps({"prompt": "x", option: url}))
    batch = CliRunner().invoke(main, ["batch", "shots/list.jsonl", "--dry-run"])
    assert batch.exit_code == 2
    assert URLS[url] in batch.stderr
    with pytest.raises(InvalidRequest, match="URLs are not read"):
        prepare(GenerationRequest(prompt="x", conditioning=(ConditioningItem(kind=option, source=url),)))


@pytest.mark.parametrize("name", ["a:b.png", "C:/x.png", "sha256:" + "0" * 64, "scene:1/x.png"])
def test_a_colon_makes_no_url(name):
    assert ConditioningItem(kind="image", source=name).source == name


BRANDS = {
    "heic": (b"heic", b"mif1"),
    "an iPhone's": (b"heic", b"mif1miafMiHBheic"),
    "a burst": (b"msf1", b"hevcmsf1"),
    "another major brand": (b"mif1", b"heic"),
    "a brand that nobody knows": (b"xyz1", b"mif1heic"),
    "avif": (b"avif", b"mif1miafMA1B"),
    "animated avif": (b"avis", b"avifavismsf1iso8mif1"),
}


@pytest.mark.parametrize("kind", BRANDS)
def test_heif_is_told_by_its_content(kind):
    major, compatible = BRANDS[kind]
    assert format_of(box(b"ftyp", major, bytes(4), compatible)).name == "HEIC or AVIF"


HEIF_BRANDS = ["heic", "heix", "hevc", "hevx", "heim", "heis", "hevm", "hevs", "mif1", "msf1", "avif", "avis"]
"""By ISO/IEC 23008-12 and AVIF: of pictures and of bursts, coded by HEVC and AV1."""


@pytest.mark.parametrize("brand", HEIF_BRANDS)
def test_every_brand_of_heif_is_a_picture_that_is_not_read(brand):
    name = brand.encode()
    for content in (
        box(b"ftyp", name, bytes(4)),
        box(b"ftyp", name, bytes(4), b"isom", name),
        box(b"ftyp", b"xyz1", bytes(4), b"iso8", name),
        bytes(4) + b"ftypxyz1" + bytes(4) + name,
        struct.pack(">I4sQ4s4x4s", 1, b"ftyp", 28, b"xyz1", name) + box(b"moov", b"isom"),
        box(b"ftyp", name, bytes(4)) + box(b"moov", b"isom"),
    ):
        assert format_of(content).holds == "unsupported", content


def test_brands_after_the_box_of_brands_do_not_count():
    assert format_of(box(b"ftyp", b"xyz1", bytes(4), b"iso8") + b"heicheic").holds == "video"


@pytest.mark.parametrize(
    ("major", "compatible"), [(b"qt  ", b"qt  "), (b"isom", b"isomiso2avc1mp41"), (b"mp42", b"mif1")]
)
def test_a_film_is_no_picture(major, compatible):
    assert format_of(box(b"ftyp", major, bytes(4), compatible)).holds == "video"


def test_what_older_workers_do_not_know_is_written_only_where_it_is_used(make_job):
    """Older workers refuse a record with a field that they do not know."""

    def job(**values):
        item = ConditioningItem(kind="video", source="sha256:" + "0" * 64, **values)
        request = GenerationRequest(prompt="x", conditioning=(item,))
        return make_job().model_copy(update={"request": request})

    plain, chosen = (one.model_dump_json() for one in (job(), job(start=1.0, stop=2.0)))
    assert '"start"' not in plain and '"stop"' not in plain
    assert Job.model_validate_json(chosen).request.conditioning[0].stop == 2.0
    whole = make_job().model_dump_json()
    assert parse_job(whole).model_dump_json() == whole


@pytest.mark.parametrize(("features", "warned"), [("", True), (CLIP_PARTS, False), (f"x {CLIP_PARTS}", False)])
def test_a_worker_that_would_read_the_beginning_is_warned_of(make_job, capsys, features, warned):
    item = ConditioningItem(kind="video", source="sha256:" + "0" * 64)
    job = make_job()
    job = job.model_copy(update={"request": GenerationRequest(prompt="x", conditioning=(item,))})
    about = {"id": "w", "name": "mac-1", "chip": "M1", "memory": 10**12, "budget_gb": 512, "variant": "pocket"}
    worker = WorkerInfo(**about, version="1", started_at=0, seen_at=0, features=features)
    farm = SimpleNamespace(is_embedded=False, workers=lambda: [worker], pauses=list, now=lambda: 10.0)
    tell_who_waits(farm, [(job, Relations())])
    said = capsys.readouterr().err
    assert ("warning: mac-1 has an older ltx-farm, which reads clips from their beginning" in said) == warned
    tell_who_waits(farm, [(make_job(), Relations())])
    assert not capsys.readouterr().err
