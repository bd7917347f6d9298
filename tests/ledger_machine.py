"""Drive the ledger's scripts against a model in plain Python.

A client, two workers and a reaper act in any order, with lost answers, repeated commands, and writes by attempts that
were replaced.
"""

import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ltx_client.farm.ledger.scripts import ClientLedger, Submission
from ltx_client.protocol import events
from ltx_client.protocol.changes.messages import JobStatus, parse_change
from ltx_client.protocol.events import Result
from ltx_client.protocol.fair_turns import GIVEN_BACK, line_entry, line_keys, turn_of
from ltx_client.protocol.state import ENDED, TRANSITIONS, Snapshot, Status, apply
from ltx_models.families.variants import find_variant
from ltx_worker.ledger.ledger import Claim, Ledger, Refusal, StaleAttempt, Strike, Verdict
from tests.ledger_model import JOB, NAMES, FaultyLedger, Model

ENDINGS = {
    "done": events.Done(result=Result(video="a.mp4", sidecar="a.json", size=3, sha256="00")),
    "failed": events.Failed(error="no"),
    "cancelled": events.Cancelled(),
}
FAULTS = st.sampled_from(["", "", "", "sent twice", "answer lost", "never arrived"])
SELDOM_FAULTS = st.sampled_from([""] * 5 + ["sent twice", "sent twice", "answer lost", "never arrived"])
WHOSE = st.sampled_from([0, 0, 0, 1, 2])
"""Counted from the newest attempt."""
ARGUMENTS = {
    "submit": {"other": st.booleans()},
    "claim": {
        "worker": st.sampled_from(["one", "two"]),
        "fault": SELDOM_FAULTS,
        "overtaken_by": st.sampled_from(["", "a worker", "a reaper"]),
    },
    "renew": {"index": WHOSE, "fault": FAULTS},
    "emit": {
        "index": WHOSE,
        "kind": st.sampled_from(["step", "step", "step", "old step", "preview", "preview", "text", "decode", "frame"]),
        "fault": FAULTS,
        "resend": st.sampled_from([True, True, False]),
    },
    "save": {"index": WHOSE, "fault": FAULTS},
    "commit": {"index": WHOSE, "ending": st.sampled_from(sorted(ENDINGS)), "fault": FAULTS},
    "release": {
        "index": WHOSE,
        "strike": st.sampled_from([None, *Strike, Strike.NOT_FINITE, Strike.NOT_FINITE]),
        "fault": FAULTS,
    },
    "requeue": {"age": st.sampled_from([0, 0, 1, 2]), "fault": FAULTS},
    "crash_and_go_on": {
        "end": st.sampled_from(["lapse", "lapse", "death", "NaN by A", "NaN by B"]),
        "steps": st.sampled_from([0, 0, 1]),
        "fault": FAULTS,
    },
}

HEARD = b"all that was told before"
SIMPLEST = {
    "other": False, "worker": "one", "overtaken_by": "", "index": 0, "strike": None, "age": 0, "steps": 0,
    "resend": False, "fault": "",
}  # fmt: skip
"""The arguments of rules that are given by hand."""

STAGES = tuple(
    events.StagePlan(name=row.name, label=row.label, counts=row.counts, of=row.of(JOB.request))
    for row in find_variant(JOB.variant).stages
)
LINES = [line_keys(NAMES, JOB)[0], line_keys(NAMES, JOB, GIVEN_BACK)[0]]
"""Where the job waits before its first attempt, and after it."""


class LedgerMachine(RuleBasedStateMachine):
    """The state machine; whoever runs it sets `redis`."""

    redis: redis.Redis

    @initialize()
    def begin(self):
        self.listen()
        self.forget_everything()

    def listen(self):
        self.channel = self.redis.pubsub()
        self.channel.subscribe(NAMES.changes())

    @rule(data=st.data())
    def anything(self, data):
        """Run one rule of any kind, so that the most relevant action of a state is the most frequent one."""
        name = data.draw(st.sampled_from(self.likely()))
        getattr(self, name)(**{key: data.draw(values) for key, values in ARGUMENTS.get(name, {}).items()})

    def likely(self):
        """Return the actions that are possible now, some of them several times to make them more likely."""
        model, now = self.model, ["cancel", "submit", "claim", "requeue", "pause"]
        if not model.exists:
            return [*now, "submit", "submit", "submit"]
        if model.status in ENDED:
            now += ["another_life"] * 3
            now += ["pause"] * 2
        elif model.leased:
            now += ["the_lease_lapses"] * 2
        else:
            now += ["unpause"] * (4 if model.paused else 0)
            now += ["claim"] * 5 + ["requeue"] * (5 if model.status is Status.RUNNING else 2)
            now += ["cancel"] * (3 if model.resume else 0)
        if self.attempts:
            now += ["emit", "renew", "save", "commit", "release"]
            if self.owns(self.attempts[-1]):
                now += ["emit"] * 5 + ["save", "save", "renew"] + ["crash_and_go_on"] * 2
                now += ["commit", "commit", "release"] * model.cancel
                now += ["renew"] * 4 * model.paused
        return now

    def another_life(self):
        self.forget_everything()
        self.submit(other=False)

    def forget_everything(self):
        self.redis.flushall()
        self.ledger = FaultyLedger(self.redis, NAMES)
        self.asking = ClientLedger(self.redis, NAMES)
        self.model = Model()
        self.attempts: list[Claim] = []
        self.unanswered: dict[str, tuple] = {}
        self.seen = [Snapshot()]
        self.hear()
        self.told = []

    def teardown(self):
        self.channel.close()

    def hear(self):
        """Return what the farm's channel has told since it was last asked."""
        self.redis.publish(NAMES.changes(), HEARD)
        told = []
        while (message := self.channel.get_message(timeout=60))["data"] != HEARD:
            told += [parse_change(message["data"])] if message["type"] == "message" else []
        return told

    def dump(self):
        """Return all stored values.

        DUMP is not used: it depends on a hash's layout in memory, which reading may change.
        """
        read = {
            b"hash": self.redis.hgetall,
            b"string": self.redis.get,
            b"stream": self.redis.xrange,
            b"list": lambda key: self.redis.lrange(key, 0, -1),
            b"zset": lambda key: self.redis.zrange(key, 0, -1, withscores=True),
        }
        return {key: (read[self.redis.type(key)](key), self.redis.ttl(key) < 0) for key in self.redis.keys("*")}

    def write(self, fault, call):
        """Return the answer, and whether the write arrived at the server."""
        self.ledger.fault = fault
        try:
            return call(), True
        except redis.ConnectionError:
            return None, fault == "answer lost"
        finally:
            self.ledger.fault = ""

    def refused(self, call):
        before = self.dump()
        try:
            answer = call()
        except StaleAttempt:
            assert self.dump() == before, "a stale write changed something"
        else:
            raise AssertionError(f"a stale write was answered {answer!r}")

    def whose(self, index):
        return self.attempts[max(-len(self.attempts), -1 - index)]

    def owns(self, attempt):
        return self.model.token == attempt.token and self.model.status is Status.RUNNING

    def take_note(self):
        """Store the job as a reaper would read it now."""
        stored = self.redis.hget(NAMES.state(JOB.id), "snapshot")
        snapshot = Snapshot.model_validate_json(stored) if stored else Snapshot()
        if self.seen[-1] != snapshot:
            self.seen.append(snapshot)

    def verdict(self):
        return Verdict.CANCEL if self.model.cancel else Verdict.CONTINUE

    def renewed(self):
        return Verdict.PAUSE if self.model.paused and not self.model.cancel else self.verdict()

    # The client

    def submit(self, other):
        job = JOB.model_copy(update={"checkpoint_every": 7}) if other and self.model.exists else JOB
        expected = (Submission.CONFLICT if job is not JOB else Submission.EXISTS) if self.model.exists else "created"
        assert self.asking.submit(job) == expected
        self.model.asked += [] if self.model.exists else ["job_submitted"]
        self.model.exists = True

    def cancel(self):
        before = self.dump()
        status = self.asking.cancel(JOB.id)
        assert status == (self.model.status if self.model.exists else None)
        if status is None or status in ENDED:
            assert self.dump() == before
            return
        self.model.asked += [] if self.model.cancel else ["job_cancel_asked"]
        self.model.cancel = True
        self.model.cancelled_while_queued |= status is Status.QUEUED

    def pause(self):
        self.wish(self.asking.pause, True)

    def unpause(self):
        self.wish(self.asking.unpause, False)

    def wish(self, ask, paused):
        before = self.dump()
        status = ask(JOB.id)
        assert status == (self.model.status if self.model.exists else None)
        if status is None or status in ENDED:
            assert self.dump() == before
        else:
            self.model.asked += [] if self.model.paused == paused else ["job_paused" if paused else "job_unpaused"]
            self.model.paused = paused

    # The workers

    def claim(self, worker, fault, overtaken_by):
        if overtaken_by:
            fault = ""
            self.overtake_next_claim(overtaken_by)
        answer, arrived = self.write(fault, lambda: self.ledger.claim(JOB.id, worker, worker))
        if arrived:
            expected = self.claim_in_model(worker)
            assert answer is None or expected == getattr(answer, "number", answer), (answer, expected)
            self.model.token = self.redis.hget(NAMES.state(JOB.id), "token") and self.token()
        if isinstance(answer, Claim):
            self.attempts.append(answer)

    def token(self):
        return self.redis.hget(NAMES.state(JOB.id), "token").decode()

    def overtake_next_claim(self, by):
        """Let another worker take and give back the job, or a reaper requeue it, within this claim."""
        read = self.ledger.read_with_spec

        def read_then_overtaken(job_id):
            self.ledger.read_with_spec = read
            state = read(job_id)
            if by == "a reaper":
                self.requeue(age=0, fault="")
                return state
            attempt = Ledger(self.redis, NAMES).claim(job_id, "faster", "faster")
            expected = self.claim_in_model("faster")
            assert expected == getattr(attempt, "number", attempt)
            if isinstance(attempt, Claim):
                self.attempts.append(attempt)
                self.ledger.release(attempt, "overtook")
                self.model.give_back("overtook", None)
            return state

        self.ledger.read_with_spec = read_then_overtaken

    def claim_in_model(self, worker):
        model = self.model
        if not model.exists:
            return Refusal.GONE
        if model.status in ENDED:
            return Refusal.ENDED
        if model.leased:
            return Refusal.LEASED
        if model.cancel:
            model.log.append(events.Cancelled())
            model.end_if(True)
            return Refusal.CANCELLED
        if model.paused:
            return Refusal.JOB_PAUSED
        model.attempt += 1
        model.leased, model.preview = True, None
        model.log.append(events.Claimed(attempt=model.attempt, worker=worker, worker_name=worker, stages=STAGES))
        return model.attempt

    def renew(self, index, fault):
        attempt = self.whose(index)
        if not self.owns(attempt):
            self.refused(lambda: self.ledger.renew(attempt))
            return
        answer, arrived = self.write(fault, lambda: self.ledger.renew(attempt))
        assert answer in (None, self.renewed())
        self.model.leased |= arrived

    def emit(self, index, kind, fault, resend):
        attempt, model = self.whose(index), self.model
        step = model.furthest + 1 if kind == "step" else max(1, model.furthest - 1)
        event = {
            "preview": events.Previewed(step=step),
            "text": events.TextEncoded(),
            "decode": events.StageBegan(stage="decode"),
            "frame": events.Progress(stage="decode", done=len(model.log), of=1000, seconds=1.0),
        }.get(kind, events.Stepped(step=step, steps=1000, seconds=1.0))
        preview, written = (b"jpeg %d" % len(model.log) if kind == "preview" else b""), False
        if resend and attempt.token in self.unanswered:
            event, preview, written = self.unanswered[attempt.token]
        if not self.owns(attempt):
            self.refused(lambda: self.ledger.emit(attempt, event, preview))
            return
        answer, arrived = self.write(fault, lambda: self.ledger.emit(attempt, event, preview))
        assert answer in (None, self.verdict())
        self.unanswered.pop(attempt.token, None)
        if answer is None:
            self.unanswered[attempt.token] = (event, preview, written or arrived)
        if arrived and not written:
            model.log.append(event)
            model.preview = preview or model.preview
            if isinstance(event, events.Stepped) and event.step > model.furthest:
                model.furthest, model.strikes, model.found_by = event.step, dict.fromkeys(Strike, 0), set()
            if event.type in ("stage_began", "progress") and model.decoded < 0:
                model.decoded, model.strikes, model.found_by = 0, dict.fromkeys(Strike, 0), set()

    def save(self, index, fault):
        attempt, point = self.whose(index), b"after %d" % len(self.model.log)
        if not self.owns(attempt):
            self.refused(lambda: self.ledger.save(attempt, point))
            return
        _, arrived = self.write(fault, lambda: self.ledger.save(attempt, point))
        if arrived:
            self.model.resume = point

    def commit(self, index, ending, fault):
        attempt, model, event = self.whose(index), self.model, ENDINGS[ending]
        if not self.owns(attempt) and not (model.token == attempt.token and model.status == ending):
            self.refused(lambda: self.ledger.commit(attempt, event))
            return
        self.unanswered.pop(attempt.token, None)
        over, refused = model.status in ENDED, ending == "done" and model.cancel
        answer, arrived = self.write(fault, lambda: self.ledger.commit(attempt, event))
        assert answer in (None, Verdict.CANCEL if refused and not over else Verdict.CONTINUE)
        if arrived and not refused and not over:
            model.log.append(event)
            model.end_if(True)

    def release(self, index, strike, fault, by="A"):
        attempt, model = self.whose(index), self.model
        if not self.owns(attempt):
            repeated = model.token == attempt.token and self.settled_seq(attempt) + 1 == model.snapshot.seq
            if repeated:
                assert self.ledger.release(attempt, "gave back", strike, by=by) is model.status
            else:
                self.refused(lambda: self.ledger.release(attempt, "gave back", strike, by=by))
            return
        self.unanswered.pop(attempt.token, None)
        answer, arrived = self.write(fault, lambda: self.ledger.release(attempt, "gave back", strike, by=by))
        if arrived:
            outcome = model.give_back("gave back", strike, by)
            assert answer in (None, outcome)

    def settled_seq(self, attempt):
        """Return the last number that the attempt will know when it writes again."""
        return self.model.snapshot.seq if attempt.unsure else attempt.snapshot.seq

    # Time, and the reaper

    def the_lease_lapses(self):
        self.redis.delete(NAMES.lease(JOB.id))
        self.model.leased = False

    def crash_and_go_on(self, end, steps, fault):
        """Run several rules in a row that rarely meet by chance."""
        for _ in range(steps):
            self.emit(index=0, kind="step", fault="", resend=True)
        if end != "lapse":
            strike = Strike.DEATH if "death" in end else Strike.NOT_FINITE
            self.release(index=0, strike=strike, fault=fault, by=end[-1])
        else:
            self.the_lease_lapses()
            self.requeue(age=0, fault=fault)
        if not self.model.leased:
            self.claim(worker="two", fault="", overtaken_by="")

    def requeue(self, age, fault):
        self.take_note()
        model = self.model
        snapshot = self.seen[max(-len(self.seen), -1 - age)]
        answer, arrived = self.write(fault, lambda: self.ledger.requeue(JOB.id, snapshot, JOB))
        current = model.snapshot
        fresh = (snapshot.attempt, snapshot.seq) == (current.attempt, current.seq)
        orphaned = current.status is Status.RUNNING or (current.status is Status.QUEUED and model.cancel)
        if not model.exists or model.leased or not fresh or not orphaned:
            assert answer is None
        elif arrived:
            outcome = model.give_back(f"worker {current.worker_name} stopped answering", Strike.LAPSE)
            assert answer in (None, outcome)

    # What must hold after each of these

    @invariant()
    def all_holds(self):
        self.what_a_reaper_read_may_be_old()
        self.the_log_is_whole_and_the_snapshot_is_its_replay()
        self.the_channel_tells_each_change_once()
        self.the_other_keys_say_the_same()
        self.a_job_that_waits_is_in_a_line()
        self.what_has_ended_expires_and_nothing_else()

    def what_a_reaper_read_may_be_old(self):
        self.take_note()

    def the_log_is_whole_and_the_snapshot_is_its_replay(self):
        stored, replayed = self.redis.hgetall(NAMES.state(JOB.id)), Snapshot()
        log = self.redis.xrange(NAMES.events(JOB.id))
        assert [number for number, _ in log] == [b"%d-0" % (n + 1) for n in range(len(log))]
        written = [events.parse_event(fields[b"event"]) for _, fields in log]
        for event in written:
            before, replayed = replayed, apply(replayed, event)
            changed = before.status is not replayed.status
            assert not changed or replayed.status in TRANSITIONS[before.status]
            assert before.status not in ENDED, "something was written after the end"
        assert [_timeless(event) for event in written] == [_timeless(event) for event in self.model.log]
        if stored:
            assert Snapshot.model_validate_json(stored[b"snapshot"]) == replayed
            assert (int(stored[b"seq"]), stored[b"status"].decode()) == (replayed.seq, replayed.status)
            assert int(stored.get(b"attempt", 0)) == replayed.attempt == self.model.attempt
            counters = {strike: int(stored.get(strike.encode(), 0)) for strike in Strike}
            assert counters == self.model.strikes
            assert int(stored.get(b"furthest", 0)) == self.model.furthest
            assert int(stored.get(b"furthest:decode", -1)) == self.model.decoded
        assert sum(isinstance(event, events.Done) for event in written) <= 1

    def the_channel_tells_each_change_once(self):
        self.told += self.hear()
        assert {each.job for each in self.told} <= {JOB.id}
        statuses = [each for each in self.told if isinstance(each, JobStatus)]
        assert [(each.seq, each.status) for each in statuses] == self.model.statuses
        assert [each.type for each in self.told if each not in statuses] == self.model.asked
        if statuses and statuses[-1].status == Status.RUNNING:
            assert (statuses[-1].attempt, statuses[-1].worker) == (self.model.attempt, self.model.snapshot.worker)

    def the_other_keys_say_the_same(self):
        model, client = self.model, self.redis
        token = client.get(NAMES.lease(JOB.id))
        assert (token is not None) == model.leased
        assert token is None or (token.decode() == model.token and model.status is Status.RUNNING)
        assert client.get(NAMES.latents(JOB.id)) == model.resume
        assert client.get(NAMES.preview(JOB.id)) == model.preview
        assert client.exists(NAMES.result(JOB.id)) == (model.status is Status.DONE)
        assert client.exists(NAMES.cancel(JOB.id)) == model.cancel
        assert client.hexists(NAMES.job(JOB.id), "held") == model.paused

    def a_job_that_waits_is_in_a_line(self):
        model, line = self.model, LINES[self.model.attempt > 0]
        if model.exists and model.status is Status.QUEUED and not (model.paused or model.cancel):
            assert self.redis.zscore(line, line_entry(JOB)) is not None
            assert self.redis.zscore(NAMES.turns(JOB.variant), turn_of(JOB, GIVEN_BACK if model.attempt else None))

    def what_has_ended_expires_and_nothing_else(self):
        names, ended = NAMES, self.model.status in ENDED
        by_client = {names.job(JOB.id), names.cancel(JOB.id)}
        for key in map(bytes.decode, self.redis.keys("*")):
            if key in (names.jobs(), names.lease(JOB.id), names.turns(JOB.variant), *LINES):
                continue
            expires = self.redis.ttl(key) > 0
            assert expires == (ended or (self.model.cancelled_while_queued and key in by_client)), key


def _timeless(event):
    return event.model_copy(update={"at": 0.0})


def run_rules(client, rules):
    """Call these rules in turn, each a name and those of its arguments that are not the simplest ones.

    What must hold after each is checked, as the machine does it.
    """
    machine = type("Machine", (LedgerMachine,), {"redis": client})()
    machine.listen()
    machine.forget_everything()
    try:
        for name, arguments in rules:
            getattr(machine, name)(**{key: SIMPLEST.get(key) for key in ARGUMENTS.get(name, {})} | arguments)
            machine.all_holds()
    finally:
        machine.teardown()


def run_machine(client, examples, steps=50):
    """Run the same examples every time."""
    machine = type("Machine", (LedgerMachine,), {"redis": client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
