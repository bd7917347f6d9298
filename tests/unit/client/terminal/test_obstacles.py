"""Test what is said where jobs wait: which workers there are, why none takes the job, and what changes that."""

from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from ltx_client.errors import BrokerUnreachable, JobNotFound, UsageError
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.obstacles import why_waiting
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.farm.submit import Sending
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.pauses import Pause
from ltx_client.protocol.state import Snapshot
from ltx_client.protocol.workers import OFF_DUTY, PAUSED, PAUSED_BY_USER, UNREADY, WorkerInfo
from ltx_client.terminal.notices.dry_run import print_plan
from ltx_client.terminal.notices.wait_reasons import explain_waits, tell_who_waits


def worker(name="mac-1", **fields):
    fields = {"memory": 64 * 10**9, "budget_gb": 48, "variant": "pocket", "version": "1", "chip": "M2", **fields}
    return WorkerInfo(id=f"id-of-{name}", name=name, started_at=0, seen_at=0, **fields)


def farm(*workers, embedded=False, paused=False):
    pauses = [Pause(of="queue", id="pocket", name="pocket", by="me", at=0)] if paused else []

    def why_all(views):
        return {view.job.id: why_waiting(view, workers, pauses, embedded=embedded) for view in views}

    return SimpleNamespace(
        is_embedded=embedded,
        workers=lambda: list(workers),
        pauses=lambda: pauses,
        now=lambda: 10.0,
        why_waiting_all=why_all,
    )


EXCLUDED = "start another worker, or ltx cancel the job and submit it without --not-on"
CASES = {
    "nobody, here": ([], {"embedded": True}, (), "nothing renders pocket on this machine now; run ltx up in another"),
    "nobody": ([], {}, (), "no live worker serves pocket.1; its jobs wait for one (see ltx workers)"),
    "another variant": ([worker(variant="dev")], {}, (), "no live worker serves pocket.1; its jobs wait"),
    "one that can": ([worker()], {}, (), ""),
    "one of two": ([worker(state=PAUSED), worker("mac-2")], {}, (), ""),
    "too small": ([worker(budget_gb=0.5)], {}, (), "it needs 1 GB, and renders on mac-1 may use 0.5"),
    "no GPU": (
        [worker(gpu_gb=0.02)],
        {},
        (),
        "no live worker's GPU may use the memory that a video of this size needs",
    ),
    "one GPU": ([worker(gpu_gb=0.02), worker("mac-2", gpu_gb=40.0)], {}, (), ""),
    "paused": ([worker(state=PAUSED, why_paused="no ffmpeg")], {}, (), "mac-1 is paused (no ffmpeg; ltx-worker resume"),
    "by a user": (
        [worker(state=PAUSED_BY_USER, why_paused="by ann")],
        {},
        (),
        "mac-1 is paused (by ann; ltx resume ends that)",
    ),
    "off duty": ([worker(state=OFF_DUTY, why_paused="it works at night")], {}, (), "off duty (it works at night)"),
    "unready": ([worker(state=UNREADY)], {}, (), "mac-1 cannot continue"),
    "the only one is excluded": ([worker()], {}, ("mac-1",), EXCLUDED),
    "excluded by id": ([worker()], {}, ("id-of-mac-1",), EXCLUDED),
    "all are excluded": ([worker(), worker("mac-2")], {}, ("mac-1", "mac-2"), "mac-2 is excluded by --not-on"),
    "the others are paused": ([worker(), worker("mac-2", state=PAUSED)], {}, ("mac-1",), "mac-2 is paused"),
    "others can": ([worker(), worker("mac-2")], {}, ("mac-1",), ""),
    "excluded here": ([worker()], {"embedded": True}, ("mac-1",), EXCLUDED),
    "nobody of that name": (
        [worker()],
        {},
        ("mac-l",),
        "no live worker is called mac-l, which --not-on names; the live workers are",
    ),
    "the queue": ([], {"paused": True}, (), "queue pocket was paused by me"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_at_submit(make_job, capsys, case):
    workers, where, not_on, said = CASES[case]
    tell_who_waits(farm(*workers, **where), [(make_job(), Relations(not_on=not_on)) for _ in range(3)])
    error = capsys.readouterr().err
    assert error.count("\n") == bool(said), error
    assert said in error and error.startswith("warning: " if said else "")


def queued(job, **fields):
    view = JobView(job, 0.0, Snapshot(), cancel_asked=False, leased=False, **fields)
    return Update(None, view.snapshot, view)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("nobody of that name", "nobody, here")])
def test_what_is_said_while_it_waits_and_only_once(make_job, capsys, monkeypatch, case):
    workers, where, not_on, said = CASES[case]
    monkeypatch.setattr("ltx_client.terminal.notices.wait_reasons.ASK_EVERY", 0.0)
    update = queued(make_job(), relations=Relations(not_on=not_on))
    assert list(explain_waits(farm(*workers, **where), [update] * 3)) == [update] * 3
    error = capsys.readouterr().err
    assert error.count("\n") == bool(said), error
    assert said in error


def test_what_waits_for_others_or_ends_is_not_explained(make_job, capsys, monkeypatch):
    monkeypatch.setattr("ltx_client.terminal.notices.wait_reasons.ASK_EVERY", 0.0)
    follows = queued(make_job(), relations=Relations(after_jobs=("x",)))
    gone = JobView(make_job(), 0.0, Snapshot(), cancel_asked=True, leased=False)
    assert len(list(explain_waits(farm(), [follows, Update(None, gone.snapshot, gone)]))) == 2
    assert capsys.readouterr().err == ""


def test_a_paused_job_names_the_command_that_ends_it(make_job):
    view = queued(make_job(), paused=True).view
    assert why_waiting(view, [], [], embedded=False) == f"the job is paused; `ltx resume {view.job.id}` ends that"


@pytest.mark.parametrize("name", ["", "  "])
def test_nobody_is_left_out_by_an_empty_name(names, name):
    """A variable that is not set gives an empty name."""
    with pytest.raises(UsageError, match=f"--not-on '{name}' is invalid: it is not a worker's name: it is empty"):
        Farm.over(None, SecretStr("redis://farm"), names, None).relations(not_on=[name])


@pytest.mark.parametrize(
    ("error", "said"), [("it is a replica", "it is a replica. Whether"), ("is it up?", "up[?] Whe")]
)
def test_what_is_unknown_after_an_outage_is_a_sentence_of_its_own(make_job, names, monkeypatch, error, said):
    def submit(*_):
        raise BrokerUnreachable(error)

    monkeypatch.setattr(Sending, "_submit", submit)
    with pytest.raises(BrokerUnreachable, match=said):
        Farm.over(None, SecretStr("redis://farm"), names, None).send(make_job())


def test_a_dry_run_says_what_the_links_would_do(make_job, client_ledger, redis_client, names, monkeypatch, capsys):
    job = make_job()
    monkeypatch.setattr(Farm, "connect", lambda *_: Farm.over(redis_client, SecretStr("redis://farm"), names, None))
    settings = SimpleNamespace(broker_url="redis://farm")
    monkeypatch.setattr(Farm, "workers", lambda _: [worker(), worker("mac-2")])
    print_plan(settings, [job])
    assert "mac-1, mac-2" in capsys.readouterr().out
    print_plan(settings, [job], (), ("mac-1",))
    assert "served by" in (said := capsys.readouterr().out) and "mac-1" not in said
    print_plan(settings, [job], (), ("mac-1", "mac-2"))
    assert EXCLUDED in capsys.readouterr().err
    for where in (settings, SimpleNamespace(broker_url=None)):
        with pytest.raises(JobNotFound):
            print_plan(where, [job], ("no-such-job",))
