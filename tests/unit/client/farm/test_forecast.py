"""Test places in the queue and times, by what jobs took before; and the table that shows them."""

import dataclasses
import io

import pytest
from pydantic import SecretStr

from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.forecast import Place, measure, places
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.state import Snapshot, apply
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.console.rich_console import Console
from ltx_client.terminal.watching.live_table import LiveDisplay

DONE = events.Done(at=100, result=Result(video="a", sidecar="b", size=1, sha256="0"))


def worker(name="w1", chip="M2 Max", **fields):
    fields = {"memory": 64 * 10**9, "budget_gb": 48, "variant": "pocket", "version": "1", **fields}
    return WorkerInfo(id=name, name=name, chip=chip, started_at=0, seen_at=0, **fields)


@pytest.fixture
def view(make_job):
    def make(*log, at=0.0, steps=8, width=128, prompt="a red ball", paused=False, relations=None, **fields):
        job = make_job(**fields)
        request = dataclasses.replace(job.request, num_steps=steps, width=width, prompt=prompt)
        state = Snapshot()
        for event in log:
            state = apply(state, event)
        job = job.model_copy(update={"request": request})
        known = {"relations": relations or Relations(), "paused": paused}
        return JobView(job, at, state, cancel_asked=False, leased=True, **known)

    return make


def rendered(step_seconds, seconds, steps=8, worker="w1"):
    """Return the log of a finished job."""
    claimed = events.Claimed(at=100 - seconds, attempt=1, worker=worker, worker_name=worker)
    return claimed, *(events.Stepped(at=50, step=n + 1, steps=steps, seconds=step_seconds) for n in range(steps)), DONE


def test_paces_are_medians_by_variant_and_chip(view):
    views = [view(*rendered(seconds, 8 * seconds + 4)) for seconds in (1.0, 2.0, 9.0)]
    views.append(view(*rendered(4.0, 36, worker="w2")))
    paces = measure(views, [worker(), worker("w2", "M4 Ultra")])
    job = views[0].job
    assert paces["pocket", "M2 Max"].seconds(job) == pytest.approx(8 * 2 + 4)
    assert paces["pocket", "M2 Max"].seconds(job, steps_done=6) == pytest.approx(2 * 2 + 4)
    assert paces["pocket", "M4 Ultra"].seconds(job) == pytest.approx(8 * 4 + 4)
    assert paces["pocket", None].jobs == 4
    wider = view(width=256).job
    assert paces["pocket", "M2 Max"].seconds(wider) == pytest.approx(2 * (8 * 2 + 4))


def test_what_was_resumed_or_did_not_end_well_is_no_measure(view):
    claimed, *rest = rendered(1.0, 12)
    again = events.Claimed(at=95, attempt=2, worker="w1", worker_name="w1")
    views = [
        view(claimed, again, *rest),
        view(claimed, *rest[:-1]),
        view(claimed, *rest[:-1], events.Failed(error="x")),
    ]
    assert measure(views, [worker()]) == {}


def test_places_follow_priority_and_turns(view):
    paces = measure([view(*rendered(1.0, 10))], [worker()])
    views = [view(at=at, submitter="ann") for at in (1, 2, 3)]
    bob = view(at=4, submitter="bob")
    urgent = view(at=5, submitter="eve", priority=1)
    paused = view(at=0, paused=True)
    follows = view(at=0, relations=Relations(after_jobs=("x",)))
    found = places([*views, bob, urgent, paused, follows], [worker()], paces, now=100)
    order = [urgent, views[0], bob, views[1], views[2]]
    assert [found[one.job.id] for one in order] == [
        Place(n, pytest.approx(10 * n), pytest.approx(10)) for n in range(5)
    ]
    assert len(found) == 5
    two = places([*views, bob, urgent], [worker(), worker("w2")], paces, now=100)
    assert [two[one.job.id].starts_in for one in order] == [pytest.approx(n) for n in (0, 0, 10, 10, 20)]


def test_a_worker_that_renders_is_free_when_it_has_done_so(view):
    paces = measure([view(*rendered(1.0, 10))], [worker()])
    claimed, *steps, _ = rendered(1.0, 10)
    busy = view(claimed, *steps[:3])
    waits = view()
    found = places([busy, waits], [worker(job=busy.job.id)], paces, now=51)
    assert found[waits.job.id].starts_in == pytest.approx(5 + 2 - 1)


def test_nothing_is_promised_where_nothing_is_known(view):
    waits = view()
    assert places([waits], [worker()], {}, 0)[waits.job.id] == Place(0, None, None)
    paces = measure([view(*rendered(1.0, 10))], [worker()])
    assert places([waits], [], paces, 0)[waits.job.id] == Place(0, None, None)
    assert places([waits], [worker(budget_gb=0.5)], paces, 0)[waits.job.id] == Place(0, None, None)


def test_the_table_shows_what_happens_first_and_counts_the_rest(view, redis_client, names):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, height=14, color_system=None)
    claimed, *steps, done = rendered(1.0, 10)
    log = [claimed, events.Loading(fraction=1, message=""), events.TextEncoded(), *steps]
    views = [view(*log, done) for _ in range(6)]
    views += [view(*log[:6], prompt="[bold]a red ball[/]"), *(view() for _ in range(4))]
    farm = Farm.over(redis_client, SecretStr("redis://localhost"), names, None)
    with LiveDisplay(farm, console) as display:
        for one in views:
            display.show(Update(None, one.snapshot, one))
        display._workers = [worker(job=views[6].job.id, state="rendering")]
        display._places = {views[7].job.id: Place(0, 5.0, 10.0)}
    drawn = screen.getvalue()
    lines = drawn[drawn.rindex("STATUS ") :].splitlines()
    assert "denoising" in lines[1] and "3/8" in lines[1] and "5.0 s" in lines[1]
    assert "[bold]a red ball[/]" in lines[1]
    assert "next, begins in about 5.0 s" in lines[2]
    assert "4 queued, 1 running, 6 done (4 not shown)" in drawn
    assert "M2 Max" in drawn
    assert max(map(len, lines)) <= 120
