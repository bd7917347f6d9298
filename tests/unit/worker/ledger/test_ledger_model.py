"""Test the ledger against its model, and that the test finds faults: each guard is removed in turn."""

import dataclasses

import pytest

from ltx_client.farm.ledger import scripts as client_scripts
from ltx_worker.ledger import scripts
from ltx_worker.ledger.ledger import Ledger
from tests.ledger_machine import run_machine, run_rules

pytestmark = pytest.mark.timeout(900)  # on a busy machine; what interrupts an example looks like a mistake found
EXAMPLES = 60
MORE_EXAMPLES = 500
"""For what is found: that ends at the first."""
IS_CURRENT = "if not is_current(state, attempt, token) then return 'stale' end"
IS_RUNNING = "if redis.call('HGET', state, 'status') ~= 'running' then return 'stale' end"

MUTANTS = {
    "claim: of a job that is not there": ("claim", "if redis.call('EXISTS', job) == 0 then return 'gone' end", ""),
    "claim: of a job that ended": ("claim", "if not contains(claimable, status) then return 'ended' end", ""),
    "claim: of a leased job": ("claim", "if is_leased(lease) then return 'leased' end", ""),
    "claim: by what was read before another": ("claim", "tonumber(seq) ~= known_seq + 1", "false"),
    "claim: of a cancelled job": ("claim", "if redis.call('EXISTS', cancel) == 1 then", "if false then"),
    "claim: of a held job": ("claim", "if redis.call('HEXISTS', job, 'held') == 1 then return 'held' end", ""),
    "claim: sent twice": ("claim", "if held[3] == token then", "if false then"),
    "claim: keeps the old preview": ("claim", "redis.call('DEL', preview)", ""),
    "claim: a cancelled job never expires": ("claim", "  expire(ttl, {job, state, cancel, events})", ""),
    "claim: a cancelled job keeps its resume point": ("claim", "  redis.call('DEL', latents)", ""),
    "renew: by a stale attempt": ("renew", IS_CURRENT, ""),
    "renew: of a job that does not run": ("renew", IS_RUNNING, ""),
    "renew: does not tell of a cancel": ("renew", "redis.call('EXISTS', cancel) == 1", "false"),
    "renew: does not tell of a pause": ("renew", "redis.call('HEXISTS', job, 'held') == 1", "false"),
    "emit: by a stale attempt": ("emit", IS_CURRENT, ""),
    "emit: into a job that does not run": ("emit", "if held[1] ~= 'running' then return 'stale' end", ""),
    "emit: sent twice": ("emit", "tonumber(seq) == tonumber(held[2]) + 1", "true"),
    "emit: does not tell of a cancel": ("emit", "redis.call('EXISTS', cancel) == 1", "false"),
    "emit: a step does not clear the strikes": ("emit", ", 'deaths', 0, 'lapses', 0", ""),
    "emit: a step does not clear who had NaN": ("emit", ", 'not_finite', 0, 'not_finite_by', ''", ""),
    "emit: every stage is that of the steps": (
        "emit",
        "redis.call('HSET', state, furthest,",
        "redis.call('HSET', state, 'furthest',",
    ),
    "emit: any step clears the strikes": ("emit", "> tonumber(redis.call('HGET', state, furthest) or -1)", "> 0"),
    "save: by a stale attempt": ("save", IS_CURRENT, ""),
    "save: for a job that does not run": ("save", IS_RUNNING, ""),
    "commit: by a stale attempt": ("commit", IS_CURRENT, ""),
    "commit: of a job that does not run": ("commit", "if held[1] ~= 'running' then return 'stale' end", ""),
    "commit: sent twice": ("commit", "if held[1] == status then return 'committed' end", ""),
    "commit: a result after a cancel": ("commit", "redis.call('EXISTS', cancel) == 1", "false"),
    "commit: keeps lease and resume point": ("commit", "redis.call('DEL', lease, latents)", ""),
    "commit: the job never expires": ("commit", "expire(ttl, {job, state, cancel, events, result})", ""),
    "commit: the preview never expires": ("commit", "expire(preview_ttl, {preview})", ""),
    "release: by a stale attempt": ("release", IS_CURRENT, ""),
    "release: sent twice": ("release", "tonumber(held[2]) == tonumber(seq) and held[1] or 'stale'", "'stale'"),
    "release: of a job that does not run": ("release", "if held[1] ~= 'running' then", "if false then"),
    "release: of a cancelled job": ("release", "if redis.call('EXISTS', cancel) == 1 then", "if false then"),
    "release: keeps the lease": ("release", "redis.call('DEL', lease)", ""),
    "release: a failed job keeps its resume point": ("release", "redis.call('DEL', latents)", ""),
    "release: strikes have no limit": ("release", ">= tonumber(limit)", "> 99"),
    "release: NaN twice by one machine": (
        "release",
        "if string.find(known, '|' .. machine .. '|', 1, true)",
        "if false",
    ),
    "release: NaN is remembered of nobody": ("release", "known .. '|' .. machine .. '|'", "known"),
    "release: latents that became NaN are kept": (
        "release",
        "redis.call('DEL', latents)\n  local known",
        "local known",
    ),
    "release: a job that waits again is in nobody's line": ("release", "elseif entry ~= '' then", "elseif false then"),
    "requeue: a job that waits again is in nobody's line": ("requeue", "elseif entry ~= '' then", "elseif false then"),
    "requeue: of a job with an owner": ("requeue", "or is_leased(lease)", ""),
    "requeue: by what was read long ago": ("requeue", "or tonumber(seq) ~= known_seq + 1", ""),
    "requeue: of a job that waits": (
        "requeue",
        "if status == 'queued' and redis.call",
        "if status == 'queued' or redis.call",
    ),
    "claim: is told to nobody": ("claim", "tell(changes, claimed_change)", ""),
    "claim: the end of a cancelled job is told to nobody": ("claim", "tell(changes, cancelled_change)", ""),
    "commit: is told to nobody": ("commit", "tell(changes, change)", ""),
    "release: is told to nobody": ("release", "tell(changes, change)", ""),
    "requeue: is told to nobody": ("requeue", "tell(changes, change)", ""),
    "release: the end of a cancelled job is told as its return": ("release", ", cancelled_change\n", ", change\n"),
    "release: a poisoned job's end is told as its return": ("release", ", failed_change\n", ", change\n"),
}
CLIENT_MUTANTS = {
    "submit: another job under a used id": ("_SUBMIT", "'exists' or 'conflict'", "'exists' or 'exists'"),
    "submit: puts it into nobody's line": (
        "_SUBMIT",
        "enter_line(line, turns, turn, entry, submitted_at)",
        "",
    ),
    "asked: a pause's end puts it into nobody's line": ("_ASK", "(waited or enters == '1')", "waited"),
    "asked: for a job that ended": ("_ASK", "if contains(ended, status) then return status end", ""),
    "asked: for a job that is not there": ("_ASK", " return 'missing'", ""),
    "asked: cannot be taken back": ("_ASK", "redis.call('HDEL', job, field)", ""),
    "cancel: of a job that ended": ("_CANCEL", "if contains(ended, status) then return status end", ""),
    "cancel: of a job that is not there": ("_CANCEL", "  return 'missing'", ""),
    "cancel: of a waiting job never expires": ("_CANCEL", "if status == 'queued' then", "if false then"),
    "cancel: of a running job expires": ("_CANCEL", "if status == 'queued' then", "if true then"),
    "submit: is told to nobody": ("_SUBMIT", "tell(changes, submitted)", ""),
    "asked: is told to nobody": ("_ASK", "tell(changes, asked)", ""),
    "asked: twice is told twice": ("_ASK", "if has_changed then", "if true then"),
    "cancel: is told to nobody": ("_CANCEL", "tell(changes, asked)", ""),
    "cancel: twice is told twice": ("_CANCEL", "if not is_asked then", "if true then"),
}
SUBMITTED, CLAIMED = ("submit", {}), ("claim", {})
RULES = {
    "claim: of a job that is not there": [CLAIMED],
    "claim: by what was read before another": [
        SUBMITTED, CLAIMED, ("the_lease_lapses", {}), ("claim", {"overtaken_by": "a reaper"}),
    ],
    "claim: keeps the old preview": [
        SUBMITTED, CLAIMED, ("emit", {"kind": "preview"}), ("crash_and_go_on", {"end": "lapse"}),
    ],
    "renew: by a stale attempt": [
        SUBMITTED, CLAIMED, ("crash_and_go_on", {"end": "NaN by A"}), ("renew", {"index": 1}),
    ],
    "emit: a step does not clear who had NaN": [
        SUBMITTED, CLAIMED, ("crash_and_go_on", {"end": "NaN by B"}), ("emit", {"kind": "step"}),
    ],
    "emit: any step clears the strikes": [
        SUBMITTED, CLAIMED, ("crash_and_go_on", {"end": "lapse", "steps": 1}), ("emit", {"kind": "old step"}),
    ],
    "commit: a result after a cancel": [SUBMITTED, CLAIMED, ("cancel", {}), ("commit", {"ending": "done"})],
    "release: of a cancelled job": [SUBMITTED, CLAIMED, ("cancel", {}), ("release", {})],
    "release: by a stale attempt": [
        SUBMITTED, CLAIMED, ("the_lease_lapses", {}), ("cancel", {}), CLAIMED, ("release", {}),
    ],
    "release: NaN twice by one machine": [SUBMITTED, CLAIMED, *[("crash_and_go_on", {"end": "NaN by A"})] * 2],
    "release: NaN is remembered of nobody": [SUBMITTED, CLAIMED, *[("crash_and_go_on", {"end": "NaN by A"})] * 2],
    "release: of a job that does not run": [SUBMITTED, CLAIMED, ("commit", {"ending": "done"}), ("release", {})],
    "release: keeps the lease": [SUBMITTED, CLAIMED, ("release", {})],
    "release: a failed job keeps its resume point": [
        SUBMITTED, CLAIMED, ("save", {}), *[("crash_and_go_on", {"end": "death"})] * 2,
    ],
    "release: strikes have no limit": [SUBMITTED, CLAIMED, *[("crash_and_go_on", {"end": "death"})] * 2],
    "release: latents that became NaN are kept": [
        SUBMITTED, CLAIMED, ("save", {}), ("crash_and_go_on", {"end": "NaN by A"}),
    ],
    "release: a job that waits again is in nobody's line": [SUBMITTED, CLAIMED, ("release", {})],
    "requeue: a job that waits again is in nobody's line": [
        SUBMITTED, CLAIMED, ("the_lease_lapses", {}), ("requeue", {}),
    ],
    "requeue: of a job with an owner": [SUBMITTED, CLAIMED, ("requeue", {})],
    "requeue: by what was read long ago": [
        SUBMITTED, CLAIMED, ("emit", {"kind": "step"}), ("the_lease_lapses", {}), ("requeue", {"age": 1}),
    ],
    "requeue: of a job that waits": [SUBMITTED, ("requeue", {})],
    "asked: a pause's end puts it into nobody's line": [SUBMITTED, ("pause", {}), CLAIMED, ("unpause", {})],
    "asked: for a job that ended": [SUBMITTED, CLAIMED, ("commit", {"ending": "failed"}), ("pause", {})],
    "asked: for a job that is not there": [("pause", {})],
    "asked: cannot be taken back": [SUBMITTED, ("pause", {}), ("unpause", {})],
}  # fmt: skip
"""The rules that show a mistake. Of some, random rules would show it only after minutes."""


def test_the_scripts_keep_what_the_model_promises(redis_client):
    run_machine(redis_client, EXAMPLES)


@pytest.mark.parametrize("name", RULES)
def test_rules_that_show_a_mistake_show_none_in_the_scripts_themselves(redis_client, name):
    run_rules(redis_client, RULES[name])


@pytest.mark.lane("unit")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_script_without_one_of_its_guards_is_found_out(redis_client, monkeypatch, name):
    script, guard, instead = MUTANTS[name]
    monkeypatch.setitem(scripts.SCRIPTS, script, without(scripts.SCRIPTS[script], guard, instead))
    assert_found_out(redis_client, rules=RULES.get(name))


@pytest.mark.lane("unit")
@pytest.mark.parametrize("name", CLIENT_MUTANTS)
def test_a_script_of_the_client_without_one_of_its_guards_is_found_out(redis_client, monkeypatch, name):
    script, guard, instead = CLIENT_MUTANTS[name]
    monkeypatch.setattr(client_scripts, script, without(getattr(client_scripts, script), guard, instead))
    assert_found_out(redis_client, rules=RULES.get(name))


@pytest.mark.lane("unit")
def test_an_owner_that_does_not_ask_what_became_of_a_lost_write_is_found_out(redis_client, monkeypatch):
    monkeypatch.setattr(Ledger, "_settle", lambda ledger, attempt: None)
    assert_found_out(redis_client, steps=25)  # with which it is found ten times as soon


def without(script, guard, instead):
    assert guard in script.text
    return dataclasses.replace(script, text=script.text.replace(guard, instead))


def assert_found_out(client, steps=50, rules=None):
    try:
        run_rules(client, rules) if rules else run_machine(client, MORE_EXAMPLES, steps)
    except (AttributeError, NameError):  # of the test itself
        raise
    except Exception:  # noqa: BLE001 - an assertion of the model's, an answer that it does not know, an error of Redis
        return
    pytest.fail("the model did not notice")
