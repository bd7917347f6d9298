"""What an attempt leaves in the storage: its video, a poster, and a sidecar from which the video can be made again."""

import dataclasses
import hashlib
import json

import pytest
from pydantic import TypeAdapter

from ltx_client.protocol.file_names import POSTER, RESULT_FILES
from ltx_client.protocol.state import Status
from ltx_client.shared.storage.marker import MARKER
from ltx_models.families.variants import find_variant
from ltx_models.request import LAST_FRAME, ConditioningItem, GenerationRequest
from ltx_models.schedulers import SchedulerConfig
from ltx_worker.engine import messages
from tests.unit.worker.attempt.attempts import Machine

JPEG = b"\xff\xd8\xff a poster"
PICTURE = hashlib.sha256(b"a picture").hexdigest()


@pytest.fixture
def machine(redis_client, names, tmp_path):
    (tmp_path / "storage").mkdir()
    machine = Machine("one", redis_client, names, tmp_path, tmp_path / "storage")
    yield machine
    machine.close()


def with_poster(engine, **decoded):
    """Have an engine write a poster, and say so, and say more at the end of its render."""
    well = engine.well

    def says(command):
        for message in well(command):
            if isinstance(message, messages.Decoded):
                command.output.with_name(POSTER.local).write_bytes(JPEG)
                written = engine.video.result().model_copy(update={"poster": hashlib.sha256(JPEG).hexdigest()})
                engine.video = type(engine.video)()
                engine.video.set_result(written)
                message = message.model_copy(update=decoded)
            yield message

    engine.says = says


def stored(machine, tmp_path):
    return {path.name for path in (tmp_path / "storage").iterdir() if path.is_file()} - {MARKER}


def sidecar_of(machine, job, tmp_path):
    result = machine.ledger.read(job.id).result
    return json.loads((tmp_path / "storage" / result.sidecar).read_text())


def test_a_poster_is_stored_and_named_in_the_result(machine, job, tmp_path):
    with_poster(machine.engine)
    machine.run(job.id)
    snapshot = machine.ledger.read(job.id)
    assert snapshot.status is Status.DONE
    assert list(snapshot.result.files) == list(RESULT_FILES)
    assert stored(machine, tmp_path) == set(snapshot.result.files.values())
    assert (tmp_path / "storage" / snapshot.result.poster).read_bytes() == JPEG
    assert snapshot.result.poster_sha256 == hashlib.sha256(JPEG).hexdigest()


def test_an_engine_that_could_make_none_has_its_video_delivered(machine, job, tmp_path):
    machine.run(job.id)
    snapshot = machine.ledger.read(job.id)
    assert (snapshot.status, snapshot.result.poster) == (Status.DONE, None)
    assert stored(machine, tmp_path) == {snapshot.result.video, snapshot.result.sidecar}


def test_a_poster_that_is_gone_costs_no_video(machine, job, tmp_path):
    """As where somebody has cleared the disk between its writing and its delivery."""
    with_poster(machine.engine)
    says = machine.engine.says

    def and_removes(command):
        for message in says(command):
            command.output.with_name(POSTER.local).unlink(missing_ok=True)
            yield message

    machine.engine.says = and_removes
    machine.run(job.id)
    snapshot = machine.ledger.read(job.id)
    assert (snapshot.status, snapshot.attempt, snapshot.result.poster) == (Status.DONE, 1, None)
    assert stored(machine, tmp_path) == {snapshot.result.video, snapshot.result.sidecar}


def test_a_sidecar_has_the_whole_request_as_it_was_rendered(
    machine, make_job, client_ledger, redis_client, names, tmp_path
):
    """What an older client has left open too, such as the seed, and pictures by what they contain."""
    (tmp_path / "storage" / "inputs").mkdir()
    (tmp_path / "storage" / "inputs" / PICTURE).write_bytes(b"a picture")
    item = ConditioningItem(kind="image", source=f"sha256:{PICTURE}", frame=LAST_FRAME)
    asked = GenerationRequest(
        prompt="a red ball", width=64, height=64, num_frames=9, num_steps=2, frame_rate=12.0, conditioning=(item,)
    )
    job = make_job().model_copy(update={"request": asked})
    redis_client.set(names.input(PICTURE), "wanted")
    client_ledger.submit(job)
    rendered = dataclasses.replace(asked.resolve(find_variant(job.variant)), seed=12345)
    local = dataclasses.replace(rendered, conditioning=(dataclasses.replace(item, source="/work/image 1", frame=8),))
    with_poster(machine.engine, request=local, scheduler=SchedulerConfig(shifting="SD3", target_shift_terminal=0.1))
    machine.run(job.id)
    sidecar = sidecar_of(machine, job, tmp_path)
    again = TypeAdapter(GenerationRequest).validate_python(sidecar["request"])
    assert again == dataclasses.replace(rendered, conditioning=(dataclasses.replace(item, frame=8),))
    assert again == again.resolve(find_variant(sidecar["variant"])), "nothing is left to a default"
    unset = {field.name for field in dataclasses.fields(again) if getattr(again, field.name) is None}
    assert unset <= {"timesteps", "guidance_timesteps"}, "the scheduler chooses these"
    assert sidecar["scheduler"] == {"sampler": "Uniform", "shifting": "SD3", "target_shift_terminal": 0.1}
    assert sidecar["job"]["request"]["conditioning"][0]["frame"] == LAST_FRAME, "the job is as it was submitted"
    assert "/work/image 1" not in json.dumps(sidecar)
