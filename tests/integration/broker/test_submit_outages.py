"""Test that a submission while the broker goes down leaves no half job, and that repeating it is safe."""

import pytest
import redis

from ltx_client.errors import BrokerUnreachable
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger.scripts import ClientLedger, LedgerExchanges, Submission
from ltx_client.protocol.fair_turns import line_keys
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, ltx_inside

NAMES = Names()
REQUEST = GenerationRequest(prompt=PROMPT, width=64, height=64, num_frames=9, num_steps=2, seed=1)
JOB = prepare(REQUEST, job_id="same-again").job


def finish(farm_env, farm):
    """Check that the job is done once a worker is there, exactly once."""
    farm_env.start_worker("one", "--no-op", reap_every=0.2)
    *_, last = farm.watch(JOB.id)
    assert (last.snapshot.status, last.snapshot.attempt) == (Status.DONE, 1)
    assert [path.name for path in farm_env.storage.glob("*.mp4")] == [last.snapshot.result.video]


def test_before_the_record_nothing_is_written_and_the_command_says_what_to_do(farm_env):
    farm_env.server.stop()
    command = ["submit", PROMPT, "--id", JOB.id, "--steps", 2, "--width", 64, "--height", 64, "--frames", 9]
    refused = ltx_inside(*command, env=farm_env.env)
    assert (refused.returncode, refused.stdout) == (69, "")
    assert "Traceback" not in refused.stderr
    farm_env.restart_server()
    with farm_env.connect() as farm, farm_env.server.address.connect() as client:
        assert client.keys("*") == []
        again = ltx_inside(*command, env=farm_env.env)
        assert (again.returncode, again.stdout) == (0, f"{JOB.id}\n")
        finish(farm_env, farm)


def test_between_record_and_message_the_reaper_sends_it(farm_env, monkeypatch):
    submit = LedgerExchanges.submit_all

    def submit_then_lose_the_server(ledger, jobs):
        outcome = yield from submit(ledger, jobs)
        farm_env.server.stop()
        return outcome

    monkeypatch.setattr(LedgerExchanges, "submit_all", submit_then_lose_the_server)
    with (
        farm_env.connect() as farm,
        pytest.raises(BrokerUnreachable, match=r"to send it again with --id same-again --seed \d+ is safe"),
    ):
        farm.send(JOB)
    farm_env.restart_server()
    with farm_env.connect() as farm, farm_env.server.address.connect() as client:
        assert client.exists(NAMES.job(JOB.id))
        assert sorted(key for key in client.keys("*") if b"pocket" in key) == [
            key.encode() for key in line_keys(NAMES, JOB)
        ]
        finish(farm_env, farm)


def test_a_lost_answer_is_asked_for_again(farm_env, monkeypatch):
    submit = LedgerExchanges.submit_all

    def submit_without_hearing_of_it(ledger, jobs):
        assert (yield from submit(ledger, jobs)) == [Submission.CREATED]
        raise redis.ConnectionError("the connection was cut")

    with farm_env.connect() as farm:
        with monkeypatch.context() as patched:
            patched.setattr(LedgerExchanges, "submit_all", submit_without_hearing_of_it)
            with pytest.raises(BrokerUnreachable, match=f"Whether job {JOB.id} was queued is unknown"):
                farm.send(JOB)
        assert [view.job.id for view in farm.jobs()] == [JOB.id]
        farm.send(JOB)
        assert len(farm.jobs()) == 1
        finish(farm_env, farm)
        assert ClientLedger(farm._client, NAMES).submit(JOB) is Submission.EXISTS
