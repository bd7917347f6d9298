"""An attempt changes its state as the table says and no other way, and its observers are told of it once."""

import itertools

import pytest
import redis

from ltx_client.protocol import events
from ltx_client.protocol.state import Status
from ltx_models.errors import FaultKind
from ltx_worker.attempt.attempt import Attempt, AttemptObserver
from ltx_worker.attempt.outcomes import Outcome
from ltx_worker.attempt.states import BEGINNINGS, ENDS, TRANSITIONS, ForbiddenTransition, State
from ltx_worker.engine import messages
from ltx_worker.engine.supervisor import EngineDied
from ltx_worker.ledger.ledger import Claim, StaleAttempt
from tests.unit.worker.attempt.attempts import STEPS, Machine, brought_to

PAIRS = list(itertools.product(State, State))


class Recorder(AttemptObserver):
    """Notes all that it is told. broken: whether it fails then."""

    def __init__(self, broken=False):
        self.told = []
        self.states = []
        self._broken = broken

    def _note(self, *what):
        self.told.append(what)
        if self._broken:
            raise RuntimeError("an observer that fails")

    def claimed(self, attempt):
        self.states.append(attempt.state)
        self._note("claimed")

    def moved(self, attempt, before):
        self.states = self.states or [before]  # it began in the spool
        assert self.states[-1] is before
        self.states.append(attempt.state)
        self._note("moved", before, attempt.state)

    def progressed(self, attempt, message):
        self._note("progressed", type(message))

    def engine_died(self, attempt, error):
        self._note("engine died")

    def ended(self, attempt):
        self._note("ended", attempt.state)

    def lost(self, attempt):
        self._note("lost", attempt.state)

    @property
    def ends(self):
        return [what for what in self.told if what[0] in ("ended", "lost")]

    def count(self, *what):
        return self.told.count(what)


@pytest.fixture
def claim(ledger, job):
    return ledger.claim(job.id, "w1", "one")


@pytest.mark.parametrize(("before", "after"), [pair for pair in PAIRS if pair not in TRANSITIONS], ids=str)
def test_what_the_table_does_not_allow_is_refused_and_told_to_nobody(before, after, claim, ledger):
    attempt = brought_to(before, claim, ledger, [recorder := Recorder()])
    told = list(recorder.told)
    with pytest.raises(ForbiddenTransition, match=f"is {before}, and cannot be {after} next"):
        attempt.to(after)
    assert attempt.state is before
    assert recorder.told == told


@pytest.mark.parametrize(("before", "after"), TRANSITIONS, ids=str)
def test_what_the_table_allows_is_told_once(before, after, claim, ledger):
    attempt = brought_to(before, claim, ledger, [recorder := Recorder()])
    told = len(recorder.told)
    attempt.to(after)
    end = ("lost" if after is State.LOST else "ended", after)
    assert recorder.told[told:] == [("moved", before, after), *([end] if after in ENDS else [])]


def test_every_state_is_reached_and_leads_to_every_end_or_is_one():
    assert frozenset(State) == {*BEGINNINGS, *(after for _, after in TRANSITIONS)}
    ends = {"done", "failed", "cancelled", "requeued", "lost", "dropped"}
    assert ends == ENDS
    leads_to = {state: {state} for state in State}
    for _ in State:
        for before, after in TRANSITIONS:
            leads_to[before] |= leads_to[after]
    assert all(leads_to[state] >= ENDS for state in frozenset(State) - ENDS)


def test_nothing_is_written_of_an_attempt_that_is_over(ledger, claim):
    attempt = Attempt(claim, ledger)
    attempt.commit(events.Failed(error="no"))
    with pytest.raises(StaleAttempt):
        attempt.commit(events.Cancelled())
    with pytest.raises(StaleAttempt):
        attempt.release("once more")
    attempt.lose()
    attempt.drop()
    assert attempt.state is State.FAILED


def test_an_observer_that_fails_ends_no_attempt(ledger, claim, caplog):
    attempt = Attempt(claim, ledger, observers=[Recorder(broken=True), well := Recorder()])
    attempt.commit(events.Failed(error="no"))
    assert well.ends == [("ended", State.FAILED)]
    assert caplog.text.count("an observer of its attempt failed") == len(well.told)


@pytest.fixture
def machine(redis_client, names, tmp_path, monkeypatch):
    monkeypatch.setattr("ltx_worker.threads.retrying.REFUSED_FOR", 0.0)
    (tmp_path / "storage").mkdir()
    recorder = Recorder()
    machine = Machine("one", redis_client, names, tmp_path, tmp_path / "storage", observers=[recorder])
    machine.recorder = recorder
    machine.client, machine.names = redis_client, names
    yield machine
    machine.close()


def says(*said):
    def say(command):
        for each in said:
            if isinstance(each, Exception):
                raise each
            yield each

    return say


def done(machine, job):
    pass


def handed_on(machine, job):
    machine.more_waiting = True


def refused(machine, job):
    machine.engine.says = says(messages.Refused(error="no"))


def faulty(machine, job):
    machine.engine.says = says(messages.Faulty(error="no memory", kind=FaultKind.MEMORY))


def died(machine, job):
    machine.engine.says = says(messages.TextEncoded(), EngineDied("it died"))


def left(machine, job):
    machine.renderer.leave()
    machine.engine.says = says(messages.Stopped())


def cancelled(machine, job):
    def say(command):
        machine.client.set(machine.names.cancel(job.id), "1")
        yield from machine.engine.well(command)

    machine.engine.says = say


def taken_over(machine, job):
    """Between two steps: whichever thread of the attempt writes next hears of it, and then all of them."""

    def say(command):
        machine.client.delete(machine.names.lease(job.id))
        machine.ledger.requeue(job.id, machine.ledger.read(job.id))
        assert isinstance(machine.ledger.claim(job.id, "w2", "two"), Claim)
        yield from machine.engine.well(command)

    machine.engine.says = say


def refused_by_the_broker(machine, job):
    def release(*_, **__):
        raise redis.ResponseError("ERR what is this")

    machine.ledger.release = release
    machine.engine.says = says(messages.Faulty(error="no memory", kind=FaultKind.MEMORY))


def left_without_the_broker(machine, job):
    def release(*_, **__):
        raise redis.ConnectionError("gone")

    machine.ledger.release = release
    left(machine, job)


def unexpected(machine, job):
    machine.engine.says = says(ZeroDivisionError("an error of ours"))


RENDERED = [State.CLAIMED, State.FETCHING, State.RENDERING]
STORED = [*RENDERED, State.WRITING, State.DELIVERING]
LIVES = {
    done: [*STORED, State.COMMITTING, State.DONE],
    handed_on: [*STORED, State.COMMITTING, State.DONE],
    refused: [*RENDERED, State.COMMITTING, State.COMMITTING, State.FAILED],
    faulty: [*RENDERED, State.COMMITTING, State.COMMITTING, State.REQUEUED],
    died: [*RENDERED, State.COMMITTING, State.COMMITTING, State.REQUEUED],
    left: [*RENDERED, State.COMMITTING, State.COMMITTING, State.REQUEUED],
    cancelled: [*STORED, State.COMMITTING, State.COMMITTING, State.CANCELLED],
    taken_over: [*STORED, State.COMMITTING, State.LOST],
    left_without_the_broker: [*RENDERED, State.COMMITTING, State.COMMITTING, State.DROPPED],
    unexpected: [*RENDERED, State.COMMITTING, State.DROPPED],
}
STATUS = {State.DONE: Status.DONE, State.FAILED: Status.FAILED, State.CANCELLED: Status.CANCELLED}


@pytest.mark.parametrize("happens", LIVES, ids=lambda happens: happens.__name__)
def test_a_life_is_told_from_its_claim_to_its_one_end(machine, job, happens):
    happens(machine, job)
    if happens is unexpected:
        with pytest.raises(ZeroDivisionError):
            machine.run(job.id)
    else:
        machine.run(job.id)
    recorder, states = machine.recorder, [state for state, _ in itertools.groupby(machine.recorder.states)]
    expected = [state for state, _ in itertools.groupby(LIVES[happens])]
    if happens is taken_over:  # it depends on which thread hears of it first
        assert (states[:3], states[-1]) == (RENDERED, State.LOST)
    else:
        assert states == expected
    end = expected[-1]
    assert recorder.count("claimed") == 1
    assert recorder.ends == [("lost" if end is State.LOST else "ended", end)]
    assert recorder.count("engine died") == (happens is died)
    if end in STATUS:
        assert machine.ledger.read(job.id).status is STATUS[end]
    if end is State.DONE:
        assert recorder.count("progressed", messages.Stepped) == STEPS
        assert recorder.count("progressed", messages.Decoded) == recorder.count("progressed", messages.Written) == 1


def test_a_write_that_the_broker_refuses_drops_the_attempt(machine, job):
    refused_by_the_broker(machine, job)
    assert machine.run(job.id) is Outcome.REFUSED
    assert machine.recorder.ends == [("ended", State.DROPPED)]


def test_a_video_that_waits_ends_its_attempt_once_it_is_delivered(machine, job, tmp_path):
    (tmp_path / "storage").rename(tmp_path / "unmounted")
    assert machine.run(job.id) is Outcome.HANDED_ON
    recorder = machine.recorder
    assert recorder.states[-1] is State.SPOOLED
    assert recorder.ends == []
    (tmp_path / "unmounted").rename(tmp_path / "storage")
    machine.spool._stopped.set()
    machine.spool._cycle()
    assert machine.ledger.read(job.id).status is Status.DONE
    assert recorder.ends == [("ended", State.DONE)]
    assert recorder.count("claimed") == 1


def test_an_attempt_that_ended_here_is_not_lost_when_its_files_are_removed_late(machine, job, tmp_path):
    """Its cancel is accepted while the storage is away."""
    (tmp_path / "storage").rename(tmp_path / "unmounted")
    cancelled(machine, job)
    machine.run(job.id)
    assert machine.recorder.ends == [("ended", State.CANCELLED)]
    assert machine.spool.waiting() == 1
    (tmp_path / "unmounted").rename(tmp_path / "storage")
    machine.spool._stopped.set()
    machine.spool._cycle()
    assert machine.spool.waiting() == 0
    assert machine.recorder.ends == [("ended", State.CANCELLED)]
