"""Test that people take turns, with real workers, by the order in which jobs were claimed."""

import itertools

import pytest

from ltx_client.farm.jobs.prepare import prepare
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
    """Return the names of the jobs, in the order in which they were claimed; each was done in its first attempt."""
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
    names = {submit("ann@here"): f"ann {number}" for number in range(8)}
    names |= {submit("bob@there"): f"bob {number}" for number in range(5)}
    names |= {submit("ann@here", priority=3): f"urgent {number}" for number in range(2)}
    farm_env.start_worker("one", "--no-op", reap_every=5)
    with farm_env.connect() as farm:
        order = claims(farm, names)
    turns = [f"{who} {number}" for number in range(5) for who in ("ann", "bob")]
    assert order == ["urgent 0", "urgent 1", *turns, "ann 5", "ann 6", "ann 7"]
    with farm_env.server.address.connect() as client:
        left = [key for key in client.keys("*") if b"line" in key or (b"pocket" in key and client.type(key) == b"list")]
        assert not left, left


@pytest.mark.parametrize("workers", [1, 3])
def test_quick_jobs_are_started_in_turns(farm_env, submit, workers):
    """Test two cases at once, with engines that render nothing, and without a reaper in between.

    ann has 60 jobs, and then bob's 10 come; and of two people with many jobs, neither is ahead.
    """
    many, few = 60, 10
    names = {submit("ann@here"): f"ann {number}" for number in range(many)}
    names |= {submit("bob@there"): f"bob {number}" for number in range(few)}
    names |= {submit("eve@there"): f"eve {number}" for number in range(many)}
    for number in range(workers):
        farm_env.start_worker(f"w{number}", "--no-op", reap_every=5)
    with farm_env.connect() as farm:
        order = claims(farm, names)
    people = [name.split()[0] for name in order]
    for who in ("bob", "eve"):
        places = [place for place, whose in enumerate(people) if whose == who]
        waits = [later - earlier for earlier, later in itertools.pairwise(places)]
        # a claim and its time are two moments: with several workers, two of them may seem to have changed places
        assert max(waits) <= 3 + 2 * (workers - 1), (who, order)
    last_of_bob = len(people) - people[::-1].index("bob")
    assert people[:last_of_bob].count("eve") >= few - 1, order
    assert last_of_bob - people.index("bob") <= 3 * few + workers, order
    assert people[last_of_bob:].count("eve") <= many - few + 1, order
