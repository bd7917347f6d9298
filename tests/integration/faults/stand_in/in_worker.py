"""Inside the worker: hold jobs before the claim and the commit, make the storage faulty, and break safeguards."""

import dataclasses
import os

import fsspec
from marks import at

from ltx_client.protocol import events
from ltx_worker.ledger import scripts

fsspec.register_implementation("faulty", "faulty_storage.FaultyFileSystem")


def _break(names, healthy, broken):
    for name in names:
        script = scripts.SCRIPTS[name]
        assert healthy in script.text, f"the script {name} no longer says {healthy}"
        scripts.SCRIPTS[name] = dataclasses.replace(script, text=script.text.replace(healthy, broken))


COMMIT_FOLLOWS = "if tonumber(seq) ~= tonumber(held[2]) + 1 then return 'gap' end"

match os.environ.get("LTX_FAULTS_BREAK"):
    case "fencing":
        _break(scripts.SCRIPTS, "return held[1] == attempt and held[2] == token", "return true")
        _break(["commit"], COMMIT_FOLLOWS, "")
        # Or on a busy machine the video of the attempt that is over is removed before it can commit, again and again.
        from ltx_worker.queue.orphans import Orphans

        Orphans.sweep = lambda orphans: None
    case "token":
        _break(scripts.SCRIPTS, "return held[1] == attempt and held[2] == token", "return held[1] == attempt")
        _break(["commit"], COMMIT_FOLLOWS, "")
    case "reaper":
        _break(["requeue"], "if status == 'running' then return give_back() end", "")

from ltx_worker.ledger.ledger import Ledger  # noqa: E402 — it compiles the scripts as they are by now


def _claim(self, job_id, *who, claim=Ledger.claim, **options):
    at(job_id, "queued")
    return claim(self, job_id, *who, **options)


def _commit(self, attempt, event, commit=Ledger.commit):
    if not isinstance(event, events.Done):
        return commit(self, attempt, event)
    at(attempt.job_id, "committing")
    verdict = commit(self, attempt, event)
    at(attempt.job_id, "committed")
    return verdict


Ledger.claim = _claim
Ledger.commit = _commit
