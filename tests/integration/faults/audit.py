"""Check what must be true when a farm has settled.

Every job is done exactly once, or ended as its script predicts; nothing is left. Each finding is of a class: lost,
doubled, stuck, or other.
"""

import hashlib
import json
import math
import re
import time
from dataclasses import dataclass

import numpy as np

from ltx_client.protocol import events
from ltx_client.protocol.events import parse_event
from ltx_client.protocol.file_names import RESULT
from ltx_client.protocol.state import RESULT_TTL, Snapshot, Status, apply
from ltx_client.shared.celery.celery_settings import PRIORITY_SEPARATOR
from ltx_client.shared.storage.marker import MARKER
from tests.clips import read_clip
from tests.integration.conftest import PATIENCE, processes_of
from tests.integration.faults.dead_threads import dead_threads
from tests.integration.faults.machine_faults import STRAYS

PREVIEW_TTL = 3600
DEFECTS = re.compile(r"AssertionError|Exception in thread|Unrecoverable error|raised unexpected|Error in sitecustomize")
"""What no worker may log, whatever breaks around it."""
JOB_KEYS = ("job", "state", "events", "cancel", "result", "preview", "lease", "latents")
FARM_KEYS = ("jobs", "workers", "reaper", "dead", "embeds", "paused")
CELERY_KEYS = re.compile(rf"[a-z0-9-]+\.\d+({PRIORITY_SEPARATOR}\d)?|unacked(_index|_mutex)?|_kombu\.binding.*")
OTHER_KEYS = re.compile(r"(worker|embeds|input):[0-9a-f]+|line:[a-z0-9-]+:\d:.+|turns:[a-z0-9-]+|readers:.+")


@dataclass(frozen=True)
class Finding:
    """A finding, whose `kind` is lost, doubled, stuck or other."""

    kind: str
    job: str | None
    text: str

    def __str__(self):
        return f"{self.kind}: {self.text}" + (f" (job {self.job})" if self.job else "")


def settle_and_audit(farm, patience=PATIENCE, tidy_within=60.0):
    """Wait for the jobs' end and for what follows it, at most so many seconds each; then return the findings.

    Findings of an earlier audit of the farm are not repeated; jobs that one found clean are not checked again, unless
    `farm.clean` is emptied.
    """
    deadline = time.monotonic() + patience
    auditor = Auditor(farm)
    while auditor.unended() and time.monotonic() < deadline:
        time.sleep(0.1)
    deadline = time.monotonic() + tidy_within
    while new := [finding for finding in auditor.findings() if finding not in farm.found]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    farm.found |= set(new)
    return new


class Auditor:
    """Audits one farm's jobs and leftovers. It reads the server directly, as an administrator would."""

    def __init__(self, farm):
        self._farm = farm
        self._names = farm.names
        self._clips = {}

    def unended(self):
        waiting = self._farm.expected.keys() - self._farm.clean
        return [job_id for job_id in waiting if not self._farm.view(job_id).snapshot.ended]

    def findings(self):
        found = []
        with self._farm.server.address.connect() as client:
            for job_id in self._farm.expected.keys() - self._farm.clean:
                of_job = list(self._of_job(client, job_id))
                found += of_job
                if not of_job:
                    self._farm.clean.add(job_id)
            found += self._of_keys(client)
        return [*found, *self._of_files(), *self._of_processes(), *self._of_threads()]

    def _of_job(self, client, job_id):
        names, expected = self._names, self._farm.expected[job_id]
        if not client.exists(names.job(job_id)):
            yield Finding("lost", job_id, "there is no record of it")
            return
        fields = {key.decode(): value for key, value in client.hgetall(names.state(job_id)).items()}
        snapshot = Snapshot.model_validate_json(fields["snapshot"]) if fields else Snapshot()
        yield from self._of_log(client, job_id, snapshot)
        if not snapshot.ended:
            held = "leased" if client.exists(names.lease(job_id)) else "without a lease"
            where = f"{snapshot.status}, {snapshot.stage}, attempt {snapshot.attempt}, {held}"
            yield Finding("stuck", job_id, f"it has not ended: {where}; {snapshot.message}")
            return
        if snapshot.status not in expected.outcomes:
            kind = "lost" if Status.DONE in expected.outcomes else "other"
            should = " or ".join(sorted(expected.outcomes))
            yield Finding(kind, job_id, f"it should be {should} but is {snapshot.status}: {snapshot.error}")
        if snapshot.lost_steps > expected.crashes:
            yield Finding("other", job_id, f"{expected.crashes} crashes cost {snapshot.lost_steps} steps")
        yield from self._of_result(client, job_id, snapshot)
        for kind in JOB_KEYS:
            ttl, limit = client.ttl(getattr(names, kind)(job_id)), PREVIEW_TTL if kind == "preview" else RESULT_TTL
            if kind in ("lease", "latents") and ttl != -2:
                yield Finding("other", job_id, f"its {kind} outlived it")
            elif ttl != -2 and not 0 <= ttl <= limit:
                yield Finding("other", job_id, f"its key {kind} ends in {ttl} s")

    def _of_log(self, client, job_id, snapshot):
        """Check that the events are numbered without a gap, make the snapshot, increase by one step, and end once."""
        log = client.xrange(self._names.events(job_id))
        numbers = [int(number.split(b"-")[0]) for number, _ in log]
        if numbers != list(range(1, snapshot.seq + 1)):
            yield Finding("other", job_id, f"its events are numbered {numbers}, and its state is after {snapshot.seq}")
        state, ends, attempts = Snapshot(), 0, 0
        for event in (parse_event(fields[b"event"]) for _, fields in log):
            if isinstance(event, events.Stepped) and not self._follows(job_id, state.step, event.step):
                yield Finding("doubled", job_id, f"step {event.step} came after step {state.step}")
            state = apply(state, event)
            ends += isinstance(event, events.Done | events.Failed | events.Cancelled)
            if isinstance(event, events.Claimed):
                attempts += 1
                if event.attempt != attempts:
                    yield Finding("doubled", job_id, f"claim number {attempts} was of attempt {event.attempt}")
        if state != snapshot:
            yield Finding("other", job_id, "its events do not make its state")
        if ends > 1:
            yield Finding("doubled", job_id, f"it ended {ends} times")

    def _follows(self, job_id, before, step):
        """Return whether one event may follow another; a server without its last writes may lack steps in between."""
        forgetful = self._farm.expected[job_id].crashes == math.inf
        return step == before + 1 or (forgetful and step > before)

    def _of_result(self, client, job_id, snapshot):
        stored = sorted(path.name for path in self._farm.storage.glob(f"*{job_id}*"))
        committed = client.hgetall(self._names.result(job_id))
        if snapshot.status is not Status.DONE:
            if stored or committed:
                yield Finding("other", job_id, f"it is {snapshot.status}, but there are {stored} and {committed}")
            return
        result = snapshot.result
        if committed.get(b"attempt") != str(snapshot.attempt).encode():
            yield Finding("other", job_id, f"attempt {snapshot.attempt} is the last, but the result is {committed}")
        elif json.loads(committed[b"files"]) != {**result.model_dump(), "link": None, "poster_link": None}:
            yield Finding("other", job_id, "its result and its state name different files")
        files = set(result.files.values())
        if missing := files.difference(stored):
            yield Finding("lost", job_id, f"{sorted(missing)} are not in storage")
            return
        if more := sorted(set(stored) - files):
            kind = "doubled" if any(RESULT.fullmatch(name) for name in more) else "other"
            yield Finding(kind, job_id, f"besides its result there are {more}")
        if result.poster:  # which a full disk may cost
            jpeg = (self._farm.storage / result.poster).read_bytes()
            if hashlib.sha256(jpeg).hexdigest() != result.poster_sha256:
                yield Finding("lost", job_id, "its poster is not the one that was committed")
        data = (self._farm.storage / result.video).read_bytes()
        if hashlib.sha256(data).hexdigest() != result.sha256 or len(data) != result.size:
            yield Finding("lost", job_id, "its video is not the one that was committed")
        elif not self._is_reference(job_id, result):
            yield Finding("other", job_id, "its frames differ from an undisturbed render's")

    def _is_reference(self, job_id, result):
        expected = self._farm.expected[job_id]
        reference = self._farm.references[expected.seed, expected.steps]
        if result.sha256 not in self._clips:
            self._clips[result.sha256] = read_clip(self._farm.storage / result.video).frames
        return np.array_equal(self._clips[result.sha256], reference)

    def _of_keys(self, client):
        known = {getattr(self._names, kind)(job_id) for kind in JOB_KEYS for job_id in self._farm.expected}
        known |= {f"{self._names.namespace}{key}" for key in FARM_KEYS}
        for key in (raw.decode() for raw in client.scan_iter(count=1000)):
            bare = key.removeprefix(self._names.namespace)
            if key not in known and not (CELERY_KEYS.fullmatch(bare) or OTHER_KEYS.fullmatch(bare)):
                yield Finding("other", None, f"the key {key} is in no table")
        for key in ("unacked", "unacked_index"):
            if client.exists(self._names.namespace + key):
                count = client.hlen if key == "unacked" else client.zcard
                yield Finding("other", None, f"{count(self._names.namespace + key)} messages are in {key}")
        if missing := set(self._farm.expected) - {raw.decode() for raw in client.zrange(self._names.jobs(), 0, -1)}:
            yield Finding("lost", None, f"{sorted(missing)} are not on the list of jobs")

    def _of_files(self):
        farm = self._farm
        for path in farm.storage.glob("*"):
            if path.name == MARKER:
                continue
            if not any(job_id in path.name for job_id in farm.expected) or path.name.startswith("."):
                yield Finding("other", None, f"{path.name} was left in storage")
        for worker in farm.workers.values():
            for folder in ("work", "spool"):
                for path in (worker.home / folder).glob("*"):
                    if path.name in STRAYS:
                        continue
                    yield Finding("other", None, f"{folder}/{path.name} was left on worker {worker.name}")
            for line in worker.log.read_text(errors="replace").splitlines():
                if DEFECTS.search(line):
                    yield Finding("other", None, f"worker {worker.name} logged: {line}")

    def _of_threads(self):
        """Check that every thread of every worker is alive and none fails. An engine that has died has no threads."""
        for worker in self._farm.insist(lambda farm: farm.workers()):
            for text in dead_threads(json.loads(worker.model_dump_json())):
                if text.startswith("engine-") and not self._farm.workers[worker.name].engines():
                    continue
                yield Finding("other", None, f"thread of worker {worker.name}: {text}")

    def _of_processes(self):
        """Check that every process is a worker of the farm, its one engine, or the server."""
        farm = self._farm
        known = {farm.server._process.pid}
        for worker in farm.workers.values():
            engines = [engine.pid for engine in worker.engines()]
            known |= {worker.process.pid, *engines}
            if len(engines) > 1:
                yield Finding("doubled", None, f"worker {worker.name} has {len(engines)} engines")
        yield from (Finding("other", None, death) for death in farm.died)
        for process in processes_of(farm.folder):
            if process.pid not in known:
                yield Finding("other", None, f"{process} was left running")
