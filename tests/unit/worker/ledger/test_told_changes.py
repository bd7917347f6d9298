"""What the scripts besides an attempt's tell the farm's channel: once, and nothing of what they refuse.

That the test finds a script which tells nothing is tested, too; those of a job's life are tested against the model.
"""

import dataclasses

import pytest

from ltx_client.farm import batches, pauses
from ltx_client.farm.batches import Batches, PreparedBatch
from ltx_client.farm.ledger import removal
from ltx_client.farm.ledger.removal import RemovalExchanges
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.farm.pauses import Pauses
from ltx_client.protocol import events
from ltx_client.protocol.changes.messages import parse_change
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.exchange import run
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.machine.health import Health
from ltx_worker.membership import heartbeat
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.membership.restart_safety import RestartSafety
from ltx_worker.queue import lapsed_workers, open_jobs
from ltx_worker.queue.lapsed_workers import LapsedWorkers
from ltx_worker.queue.open_jobs import OpenJobs
from ltx_worker.settings import WorkerSettings

TELLS = "redis.pcall('PUBLISH', changes, message)"


class Scene:
    """A farm with one job, and who listens to its channel."""

    def __init__(self, client, names, make_job, ledger, client_ledger, home):
        self.client, self.names, self.make_job, self.home = client, names, make_job, home
        self.ledger, self.client_ledger = ledger, client_ledger
        self._channel = client.pubsub()
        self._channel.subscribe(names.changes())
        self.hear()

    def hear(self):
        messages = iter(self._channel.get_message, None)
        return [parse_change(one["data"]).type for one in messages if one["type"] == "message"]

    def submitted(self, **links):
        job = self.make_job()
        self.client_ledger.submit(job, Relations(**links))
        return job

    def heartbeat(self, name="one"):
        settings = WorkerSettings(home=self.home / name, worker_name=name, namespace=self.names.namespace)
        return Heartbeat(settings, self.client, "pocket", Health("w", None, None, hand_on=0))


@pytest.fixture
def scene(redis_client, make_job, tmp_path, monkeypatch):
    monkeypatch.setattr(RestartSafety, "why_not", lambda _: "")
    names = Names()
    return Scene(
        redis_client, names, make_job, Ledger(redis_client, names), ClientLedger(redis_client, names), tmp_path
    )


def forget(scene):
    job = scene.submitted()
    attempt = scene.ledger.claim(job.id, "w", "mac")
    submitted_at = int(scene.client.hget(scene.names.job(job.id), "submitted_at")) / 1000
    scene.hear()
    removals = RemovalExchanges(scene.names)
    run(scene.client, removals.forget(job.id, submitted_at))
    assert scene.hear() == [], "it runs"
    scene.ledger.commit(attempt, events.Failed(error="no"))
    scene.hear()
    for _ in range(2):
        run(scene.client, removals.forget(job.id, submitted_at))


def note_batch(scene):
    batch = PreparedBatch("b", "shots.csv", [(scene.make_job(), Relations(batch="b", item=1))])
    for _ in range(2):
        run(scene.client, Batches(scene.names).note(batch))


def drop_batch(scene):
    note_batch(scene)
    scene.hear()
    run(scene.client, Batches(scene.names).drop_empty())
    assert scene.hear() == [], "its jobs may come"
    scene.client.hset(scene.names.batch("b"), "noted_at", 0)
    for _ in range(2):
        run(scene.client, Batches(scene.names).drop_empty())


def pause(scene):
    run(scene.client, Pauses(scene.names).pause_queue("pocket", "me@here", 1.0))
    for _ in range(2):
        run(scene.client, Pauses(scene.names).resume_queue("pocket"))


def drop_expired(scene):
    gone, _ = scene.submitted(), scene.submitted()
    scene.client.delete(scene.names.job(gone.id))
    scene.hear()
    for _ in range(2):
        OpenJobs(scene.client, scene.names).read()


def beat(scene):
    worker = scene.heartbeat()
    worker._tell()
    worker._tell()
    with worker.busy("a job"):
        worker._tell()
        worker._tell()


def leave(scene):
    worker = scene.heartbeat()
    worker._tell()
    scene.hear()
    worker.leave()
    worker.leave()


def drop_lapsed(scene):
    gone, there = scene.heartbeat(), scene.heartbeat("two")
    gone._tell()
    there._tell()
    scene.client.delete(scene.names.worker(gone.worker_id))
    scene.hear()
    for _ in range(2):
        LapsedWorkers(scene.client, scene.names).drop()


SCENES = {
    forget: (removal, "_FORGET", ["job_removed"]),
    note_batch: (batches, "_NOTE", ["batch_submitted"]),
    drop_batch: (batches, "_DROP", ["batch_removed"]),
    pause: (pauses, "_PAUSE", ["paused", "unpaused"]),
    drop_expired: (open_jobs, "DROP_EXPIRED", ["job_removed"]),
    beat: (heartbeat, "BEAT", ["worker_came", "worker_changed"]),
    leave: (heartbeat, "LEAVE", ["worker_left"]),
    drop_lapsed: (lapsed_workers, "DROP_LAPSED", ["worker_left"]),
}


@pytest.mark.parametrize("act", SCENES)
def test_a_change_is_told_once(scene, act):
    act(scene)
    assert scene.hear() == SCENES[act][2]


@pytest.mark.parametrize("act", SCENES)
def test_a_script_that_tells_nothing_is_found_out(scene, act, monkeypatch):
    module, name, _ = SCENES[act]
    script = getattr(module, name)
    assert script.text.count(TELLS) == 1
    monkeypatch.setattr(module, name, dataclasses.replace(script, text=script.text.replace(TELLS, "")))
    act(scene)
    assert scene.hear() == []


def test_a_beat_that_another_run_refuses_tells_nothing(scene):
    worker = scene.heartbeat()
    worker._tell()
    scene.hear()
    scene.client.hset(scene.names.worker(worker.worker_id), mapping={"run": "another", "state": "rendering"})
    worker._tell()
    worker.leave()
    assert scene.hear() == []
