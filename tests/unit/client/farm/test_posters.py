"""Test the poster of a finished video: as Python, as commands and as versions from before posters see it."""

import asyncio
import hashlib
import io
import json
import re
import tempfile

import fakeredis
import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict, SecretStr

from ltx_client.errors import JobNotFound, StorageUnreachable, UsageError
from ltx_client.farm import retention
from ltx_client.farm.async_farm import AsyncFarm
from ltx_client.farm.describe import describe_end
from ltx_client.farm.render import Render
from ltx_client.farm.retention import find_old
from ltx_client.protocol import file_names
from ltx_client.protocol.events import Done, Result, parse_event
from ltx_client.protocol.file_names import POSTER, RESULT, RESULT_FILES
from ltx_worker.http.files import FileServer
from tests.integration.servers import free_port
from tests.stored_farm import SMALL, StoredFarm

PROMPT = "a red ball rolls to the right"
URL = SecretStr("redis://localhost")
DAY = 24 * 3600
BEFORE_POSTERS = re.compile(file_names._ATTEMPT + r"\.(mp4|json)")
"""What versions from before posters take for files of results."""


def jpeg(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def farm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = StoredFarm(tmp_path / "storage").installed(monkeypatch)
    stored.poster = jpeg()
    return stored


@pytest.fixture
def job(farm):
    """Return a handle on a job that is done."""
    farm.ltx("submit", PROMPT, *SMALL, "--seed", 7, "--id", "one-3fa85f64a1b2")
    (job_id,) = farm.sent
    return Render(farm.farm, job_id)


def result_of(job):
    return job.snapshot.result


def change(farm, job, **fields):
    """Change the job's record as whoever can write to the broker could."""
    state = farm.names.state(job.id)
    snapshot = json.loads(farm.client.hget(state, "snapshot"))
    snapshot["result"] |= fields
    farm.client.hset(state, "snapshot", json.dumps(snapshot))


def test_a_program_gets_it(farm, job):
    assert job.poster() == farm.farm.poster(job.id) == jpeg()
    assert result_of(job).poster == job.snapshot.result.files[POSTER] == f"{result_of(job).video[:-4]}.jpg"
    with pytest.raises(JobNotFound):
        farm.farm.poster("nobody")


def test_an_event_loop_gets_it(farm, job):
    async def get():
        client = fakeredis.FakeAsyncRedis(server=farm.server)
        return await AsyncFarm.over(client, URL, farm.names, farm.farm.storage_url).job(job.id).poster()

    assert asyncio.run(get()) == jpeg()


def test_what_has_none_gives_none(farm, job):
    farm.poster = None
    farm.ltx("submit", PROMPT, *SMALL, "--id", "two-3fa85f64a1b3")
    assert farm.farm.poster("two-3fa85f64a1b3") is None
    shown = farm.ltx("show", "3fa85f64a1b3")
    assert "poster" not in shown.output
    farm.client.delete(farm.names.state(job.id))  # as of one that waits
    assert job.poster() is None


INVALID = {
    "another file": (lambda farm, job, path: path.write_bytes(jpeg("blue")), "its SHA-256 differs"),
    "cut short": (lambda farm, job, path: path.write_bytes(path.read_bytes()[:-1]), "its SHA-256 differs"),
    "gone": (lambda farm, job, path: path.unlink(), "cannot read"),
    "of another job": (lambda farm, job, path: change(farm, job, poster="two.1.jpg"), "is not a file of this job"),
    "outside": (lambda farm, job, path: change(farm, job, poster=f"{job.id}./../x.jpg"), "is not the name of a file"),
    "a terminal's words": (lambda farm, job, path: change(farm, job, poster=f"{job.id}.\x1b[2J"), "is not a file of"),
    "no picture": (lambda farm, job, path: swap(farm, job, path, b"<svg/>"), "is not a JPEG"),
    "far too large": (lambda farm, job, path: swap(farm, job, path, jpeg() + bytes(20_000_000)), "more than the"),
}


def swap(farm, job, path, content):
    path.write_bytes(content)
    change(farm, job, poster_sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", INVALID)
def test_what_is_not_the_poster_is_refused_in_a_sentence(farm, job, name):
    invalidate, why = INVALID[name]
    invalidate(farm, job, farm.storage.local_folder / result_of(job).poster)
    with pytest.raises(StorageUnreachable, match=why) as refused:
        job.poster()
    assert str(refused.value).isprintable()
    assert job.download("out.mp4").exists(), "the video is as before"


def test_a_temporary_folder_that_cannot_be_written_is_said_in_a_sentence(farm, job, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"cannot write the poster of job .*TMPDIR"):
        job.poster()


def test_a_client_without_the_storage_gets_it_by_its_own_link(farm, job, tmp_path):
    port = free_port()
    (tmp_path / "home").mkdir()
    files = FileServer(farm.storage, tmp_path / "home", address="127.0.0.1", port=port, url=f"http://127.0.0.1:{port}")
    files.start()
    try:
        result = result_of(job)
        links = {kind.link: files.link(name, 60) for kind, name in result.files.items() if kind.link}
        farm.client.hset(farm.names.result(job.id), "files", json.dumps({**result.model_dump(), **links}))
        farm.farm._operations.storage_url = None
        assert job.poster() == jpeg()
        assert farm.farm.link(job.id) == links["link"]
        only_of_the_video = {**result.model_dump(), "link": links["link"], "poster_link": links["link"]}
        farm.client.hset(farm.names.result(job.id), "files", json.dumps(only_of_the_video))
        with pytest.raises(StorageUnreachable, match=r"SHA-256 differs|more than the"):
            job.poster()
    finally:
        files.stop()


def test_commands_name_it(farm, job, tmp_path):
    name = result_of(job).poster
    assert name in farm.ltx("show", "3fa85f64a1b2").output
    assert json.loads(farm.ltx("show", "3fa85f64a1b2", "--json").stdout)["state"]["result"]["poster"] == name
    assert describe_end([job.view], "1 done")["jobs"][0]["poster"] == name
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n")
    batch = farm.ltx("batch", "prompts.txt", *SMALL).stdout.split()[0]
    assert farm.ltx("download", "--batch", batch, "-o", "shots").exit_code == 0
    (entry,) = json.loads((tmp_path / "shots" / "index.json").read_text())
    assert entry["poster"] == f"{farm.farm.view(entry['job']).snapshot.result.video[:-4]}.jpg"


class ResultBeforePosters(BaseModel):
    """What a result was, as versions from before posters read it."""

    model_config = ConfigDict(frozen=True)

    video: str
    sidecar: str
    size: int
    sha256: str
    link: str | None = None


def test_older_versions_read_a_result_with_a_poster_and_are_read():
    whole = Result(video="a.1.mp4", sidecar="a.1.json", size=1, sha256="00", poster="a.1.jpg", poster_sha256="11")
    older = ResultBeforePosters.model_validate_json(whole.model_dump_json())
    assert older.video == whole.video
    event = {"type": "done", "at": 1.0, "result": older.model_dump(exclude={"link"})}
    read = parse_event(json.dumps(event))
    assert isinstance(read, Done)
    assert read.result == whole.without(POSTER)
    assert list(read.result.files) == [kind for kind in RESULT_FILES if not kind.optional]


def test_what_an_older_gc_leaves_the_next_gc_removes(farm, job, monkeypatch):
    """An older version neither knows nor removes a poster; it is found by its attempt's name, and its age."""
    result = result_of(job)
    assert [bool(BEFORE_POSTERS.fullmatch(name)) for name in result.files.values()] == [True, True, False]
    assert all(RESULT.fullmatch(name) for name in result.files.values())

    def gc(older_than):
        found = find_old(*farm.farm.all_jobs(), farm.storage, older_than, farm.farm.now())
        list(farm.farm.remove(found, farm.storage))
        return {path.name for path in farm.storage.local_folder.iterdir()} & set(result.files.values())

    with monkeypatch.context() as older:
        older.setattr(retention, "RESULT", BEFORE_POSTERS)
        assert gc(-1) == {result.poster}
    farm.client.zrem(farm.names.jobs(), job.id)  # as a worker does that finds no record
    assert gc(DAY) == {result.poster}, "one of an unknown job is removed by its age"
    assert gc(-1) == set()


def test_gc_removes_all_files_of_a_job(farm, job):
    (farm.storage.local_folder / result_of(job).sidecar).write_text("{}")
    files = set(result_of(job).files.values())
    found = find_old(*farm.farm.all_jobs(), farm.storage, -1, farm.farm.now())
    assert set(found.files) == files
    *_, removed = farm.farm.remove(found, farm.storage)
    assert removed.files == len(RESULT_FILES)
    assert not files & {path.name for path in farm.storage.local_folder.iterdir()}
