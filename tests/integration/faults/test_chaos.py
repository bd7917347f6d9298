"""Run rounds of random faults on one farm, with an audit after each."""

import math
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ltx_client.protocol import events
from ltx_client.protocol.events import parse_event
from tests.integration.faults.audit import settle_and_audit
from tests.integration.faults.faults import FAULTS, strike
from tests.integration.faults.plan import SEEDS, plan
from tests.integration.faults.report import Tally

WORKERS = ("one", "two", "three")
LEASE = 2.0


def strike_all(farm, planned):
    """Strike all; return those that were struck, with how."""
    jobs = [farm.submit(hit.seed, hold=hit.phase) for hit in planned.strikes]
    for seed in planned.bystanders:
        farm.submit(seed)
    if any(FAULTS[name].broker for hit in planned.strikes for name in hit.faults):
        for expected in farm.expected.values():  # what was not acknowledged may be lost
            expected.crashes = math.inf
    with ThreadPoolExecutor() as pool:
        aimed = list(zip(jobs, planned.strikes, strict=True))
        landed = [pool.submit(strike, farm, job, hit.phase, *hit.faults) for job, hit in aimed]
        return [both for both, worker in zip(aimed, landed, strict=True) if worker.result() is not None]


def recovery_time(farm, job_id, name):
    """Return the seconds from the strike to the next claim, if the job was claimed again."""
    when = farm.expected[job_id].struck_at[name]
    with farm.admin() as client:
        log = [parse_event(fields[b"event"]) for _, fields in client.xrange(farm.names.events(job_id))]
    return next((event.at - when for event in log if isinstance(event, events.Claimed) and event.at > when), None)


@pytest.mark.lane("chaos")
@pytest.mark.timeout(0)
def test_rounds_of_faults(breakable, request, tell):
    rounds, only = request.config.getoption("--chaos-rounds"), request.config.getoption("--chaos-round")
    seed = request.config.getoption("--chaos-seed")
    seed = random.randrange(10**6) if seed is None else seed
    command = f"pytest -m chaos --chaos-rounds {rounds} --chaos-seed {seed}"
    tally = Tally(command)
    farm = breakable(*WORKERS, lease=LEASE)
    farm.render_references(SEEDS)
    for planned in plan(rounds, seed):
        if only is not None and planned.number != only:
            continue
        began = time.monotonic()
        before = set(farm.expected)
        struck = strike_all(farm, planned)
        farm.await_workers()
        findings = settle_and_audit(farm)
        tally.jobs += len(set(farm.expected) - before)
        tally.rounds += 1
        for job, hit in struck:
            tally.struck.update((name, hit.phase) for name in hit.faults)
            tally.lost_steps.append(farm.view(job.id).snapshot.lost_steps)
            for name in hit.faults:
                if FAULTS[name].crash and (seconds := recovery_time(farm, job.id, name)) is not None:
                    tally.recoveries[name].append(seconds)
        tally.findings += [(planned.number, finding) for finding in findings]
        tell(f"round {planned.number}/{rounds} of seed {seed}: {time.monotonic() - began:.1f} s")
        for finding in findings:
            tell(f"  {finding}\n  in {planned}")
    farm.clean.clear()
    tally.findings += [("last", finding) for finding in settle_and_audit(farm)]
    if only is None:
        tally.write()
    assert not tally.findings, f"again: {command} --chaos-round {tally.findings[0][0]}"
