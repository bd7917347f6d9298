"""Test a farm whose storage is S3: workers have its keys, and a client without them uses a download link."""

import json

import pytest

from ltx_client.errors import FarmError
from ltx_client.farm.describe import describe_job
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, ltx
from tests.s3 import new_bucket, s3_server
from tests.storages import made


@pytest.fixture
def at_s3(farm_env, monkeypatch):
    """A farm whose workers store at s3://, and whose clients know neither the storage nor its keys."""
    with s3_server() as keys:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        url = new_bucket(keys)
        as_client = {name: value for name, value in farm_env.env.items() if not name.startswith("AWS_")}
        as_client.pop("LTX_STORAGE_URL")
        as_client["AWS_EC2_METADATA_DISABLED"] = "true"
        farm_env.env = {**as_client, **keys, "LTX_STORAGE_URL": url}
        made(url)
        farm_env.start_worker()
        farm_env.env, farm_env.storage = as_client, url
        yield farm_env
        farm_env.stop_workers()


def test_a_client_without_keys_gets_its_video(at_s3, tmp_path, monkeypatch):
    with at_s3.connect() as farm:
        job = farm.submit(GenerationRequest(prompt=PROMPT, seed=1))
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.DONE
        farm.download(job.id, tmp_path / "with keys.mp4")  # this process has them
        for number, url in enumerate((None, at_s3.storage)):
            env = at_s3.env if url is None else {**at_s3.env, "LTX_STORAGE_URL": url}
            target = tmp_path / f"{number}.mp4"
            downloaded = ltx("download", job.id, "-o", target, env=env)
            assert downloaded.returncode == 0, downloaded.stderr
            assert target.read_bytes() == (tmp_path / "with keys.mp4").read_bytes()

        shown = json.dumps(describe_job(farm.view(job.id)))
        with at_s3.server.address.connect() as client:
            link = json.loads(client.hget(Names().result(job.id), "files"))["link"]
            said = b"".join(field for _, fields in client.xrange(Names().events(job.id)) for field in fields.values())
            client.hdel(Names().result(job.id), "files")
        signature = link.rpartition("Signature=")[2]
        assert len(signature) == 64
        for text in (shown, said.decode(), (at_s3.folder / "one.log").read_text()):
            assert signature not in text
            assert "the-storage-key" not in text

        farm.storage_url = None
        with pytest.raises(FarmError, match="set LTX_STORAGE_URL as the workers do"):
            farm.download(job.id, tmp_path / "no.mp4")
        assert not (tmp_path / "no.mp4").exists()
