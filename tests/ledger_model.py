"""The job of the ledger's property test in plain Python, and a ledger on a bad connection."""

from dataclasses import dataclass, field

import redis

from ltx_client.farm.jobs.prepare import prepare
from ltx_client.protocol import events
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, Snapshot, apply
from ltx_models.request import GenerationRequest
from ltx_worker.ledger.ledger import POISON_LIMITS, Ledger, Strike

NAMES = Names("test:")
JOB = prepare(GenerationRequest(prompt="a red ball", seed=1), job_id="one").job


class FaultyLedger(Ledger):
    """A ledger whose next script is sent twice, loses its answer, or never arrives."""

    fault = ""

    def _run(self, script, job_id, named):
        fault, self.fault = self.fault, ""
        if fault == "never arrived":
            raise redis.ConnectionError(fault)
        answer = super()._run(script, job_id, named)
        if fault == "answer lost":
            raise redis.ConnectionError(fault)
        if fault == "sent twice":
            again = super()._run(script, job_id, named)
            expected = "left" if script == "requeue" else {"claimed": "mine"}.get(answer, answer)
            assert again == expected, f"{script}: {answer}, then {again}"
        return answer


CHANGING = (events.Claimed, events.Released, events.Done, events.Failed, events.Cancelled)
"""Events after which a job has another status, or another attempt."""


@dataclass
class Model:
    """The job as it must be."""

    exists: bool = False
    log: list = field(default_factory=list)
    attempt: int = 0
    token: str | None = None
    leased: bool = False
    cancel: bool = False
    paused: bool = False
    cancelled_while_queued: bool = False
    furthest: int = 0
    decoded: int = -1
    strikes: dict = field(default_factory=lambda: dict.fromkeys(Strike, 0))
    found_by: set = field(default_factory=set)
    resume: bytes | None = None
    preview: bytes | None = None
    asked: list = field(default_factory=list)
    """What a client has changed, as the farm's channel tells it."""

    @property
    def snapshot(self):
        state = Snapshot()
        for event in self.log:
            state = apply(state, event)
        return state

    @property
    def status(self):
        return self.snapshot.status

    @property
    def statuses(self):
        """What workers have changed, as the farm's channel tells it: (number of the event, status)."""
        state, told = Snapshot(), []
        for event in self.log:
            state = apply(state, event)
            if isinstance(event, CHANGING):
                told.append((state.seq, state.status))
        return told

    def end_if(self, ended):
        if ended:
            self.leased, self.resume = False, None

    def give_back(self, reason, strike, by=""):
        """Give the job back; return its status then."""
        self.leased = False
        if self.cancel:
            self.log.append(events.Cancelled())
        else:
            counted = strike is not Strike.NOT_FINITE or by not in self.found_by
            if strike is Strike.NOT_FINITE:
                self.resume = None
                self.found_by.add(by)
            if strike and counted:
                self.strikes[strike] += 1
            strike = strike if counted else None
            poisoned = strike and self.strikes[strike] >= POISON_LIMITS[strike]
            self.log.append(events.Failed(error=reason) if poisoned else events.Released(reason=reason))
        self.end_if(self.status in ENDED)
        return self.status
