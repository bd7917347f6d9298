import fakeredis
import pytest

from ltx_client.ledger import ClientLedger
from ltx_client.protocol.jobs import Job, new_job_id
from ltx_client.protocol.names import Names
from ltx_models.request import GenerationRequest
from ltx_models.variants import find_variant
from ltx_worker.ledger import Ledger


@pytest.fixture
def redis_client():
    return fakeredis.FakeRedis()


@pytest.fixture
def names():
    return Names("test:")


@pytest.fixture
def client_ledger(redis_client, names):
    return ClientLedger(redis_client, names)


@pytest.fixture
def ledger(redis_client, names):
    return Ledger(redis_client, names)


@pytest.fixture
def make_job():
    def make(**fields):
        request = GenerationRequest(prompt="a red ball", seed=1).resolve(find_variant("pocket"))
        defaults = {"id": new_job_id(), "variant": "pocket", "predicted_peak": 10**8, "submitter": "me@here"}
        return Job(request=request, **{**defaults, **fields})

    return make


@pytest.fixture
def job(make_job, client_ledger):
    job = make_job()
    client_ledger.submit(job)
    return job
