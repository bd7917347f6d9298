"""People take turns, with real workers: counted from the order in which jobs were claimed."""

import dataclasses
import itertools

import pytest

from ltx_client.prepare import prepare
from ltx_client.protocol import events
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, wait_until

NAMES = Names()
SHORT = GenerationRequest(prompt=PROMPT, width=64, height=64, num_frames=9, num_steps=2, seed=1)


@pytest.fixture
def submit(farm_env):
    with farm_env.connect() as farm:

        def submit_for(who, request=SHORT, **options):
            job = prepare(request, **options).job.model_copy(update={"submitter": who})
            farm.send(job)
            return job.id

        yield submit_for


def log_of(farm, job_id):
    return [update.event for update in farm.watch(job_id) if update.event]


def claims(farm, names):
    """The names of the jobs, in the order in which they were claimed; each was done in its first attempt."""
    logs = {name: log_of(farm, job_id) for job_id, name in names.items()}
    for name, log in logs.items():
        assert [type(event) for event in log].count(events.Claimed) == 1, name
        assert [type(event) for event in log].count(events.Done) == 1, name
    return sorted(logs, key=lambda name: next(e.at for e in logs[name] if isinstance(e, events.Claimed)))


def started(farm, count):
    return sum(view.status is not Status.QUEUED for view in farm.jobs()) >= count


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_of_thirty_delays_another_persons_job_by_one_render_per_worker_at_most(farm_env, submit, workers):
    for number in range(workers):
        farm_env.start_worker(f"w{number}", reap_every=0.2)
    names = {submit("ann@here"): f"ann {number}" for number in range(30)}
    with farm_env.connect() as farm:
        wait_until(lambda: started(farm, 3), what="the batch having begun")
        before = [view.job.id for view in farm.jobs() if view.status is not Status.QUEUED]
        bob = submit("bob@there")
        names[bob] = "bob"
        order = claims(farm, names)
    ahead = order[: order.index("bob")]
    assert len(set(ahead) - {names[job_id] for job_id in before}) <= workers, order
    assert len(order) == 31
    assert len(list(farm_env.storage.glob("*.mp4"))) == 31


def test_two_batches_alternate_and_priorities_come_first(farm_env, submit):
    # Long enough for a reaper to look in each.
    slow = dataclasses.replace(SHORT, num_steps=20)
    names = {submit("ann@here", slow): f"ann {number}" for number in range(8)}
    names |= {submit("bob@there", slow): f"bob {number}" for number in range(5)}
    names |= {submit("ann@here", slow, priority=3): f"urgent {number}" for number in range(2)}
    farm_env.start_worker(reap_every=0.1)
    with farm_env.connect() as farm:
        order = claims(farm, names)
    assert order[:2] == ["urgent 0", "urgent 1"]
    people = [name.split()[0] for name in order[2:]]
    bobs = [-1, *(place for place, who in enumerate(people) if who == "bob")]
    waits = [later - earlier for earlier, later in itertools.pairwise(bobs)]
    # Turn about, but for a worker that was free before a reaper looked: that costs a turn one render at most.
    assert len(waits) == 5, order
    assert max(waits) <= 3, order
    assert sorted(waits)[2] == 2, order
    for who in ("ann", "bob"):
        numbers = [int(name.split()[1]) for name in order if name.startswith(who)]
        assert numbers == sorted(numbers)
    with farm_env.server.address.connect() as client:
        left = [key for key in client.keys("*") if b"pocket" in key and b"waiting" not in key]
        assert not [key for key in left if client.type(key) == b"list"], left
