"""A farm in this process whose renders take no time: each job that is sent is done at once, with a given video.

With it, click's runner tests what commands write, without a worker.
"""

import contextlib
import hashlib

import fakeredis
from click.testing import CliRunner
from pydantic import SecretStr

from ltx_client.cli import main
from ltx_client.farm.farm import Farm
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.farm.submit import Sending
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.names import Names
from ltx_worker.ledger.ledger import Ledger
from tests.storages import made

VIDEO = b"\0\0\0\x20ftypisom" + bytes(range(256)) * 40
FRAMES = [b"\xff\xd8\xff\xe0" + bytes([number]) * 100 for number in (1, 2)]
"""Checkpoint frames of each job, as far as anything here reads them."""
SMALL = ("--width", "64", "--height", "64", "--frames", "9", "--steps", "2")


class StoredFarm:
    """A farm in this process.

    farm: the library's own, over a server in this process. sent: the ids of the jobs, in order. poster: what a worker
    stores beside a video; None as of older workers.
    """

    def __init__(self, folder):
        self.server = fakeredis.FakeServer()
        self.client = fakeredis.FakeRedis(server=self.server)
        self.names = Names("test:")
        self.storage = made(folder)
        self.sent = []
        self.poster = None
        self._ledger = ClientLedger(self.client, self.names)
        self._worker = Ledger(self.client, self.names)
        self.farm = Farm.over(self.client, SecretStr("redis://localhost"), self.names, str(self.storage.local_folder))

    def installed(self, monkeypatch):
        """Provide the same as the farm that every command of this process uses."""
        monkeypatch.setenv("LTX_BROKER_URL", "redis://localhost")
        monkeypatch.setattr(Farm, "connect", lambda *_, **__: contextlib.nullcontext(self.farm))
        monkeypatch.setattr(Sending, "_publish", lambda *_: None)
        submit = Sending._submit

        def submit_and_finish(sending, jobs, inputs):
            yield from submit(sending, jobs, inputs)
            for job, _ in jobs:
                self.finish(job.id)

        monkeypatch.setattr(Sending, "_submit", submit_and_finish)
        return self

    def finish(self, job_id):
        self.sent.append(job_id)
        attempt = self._worker.claim(job_id, "w1", "one")
        for step, frame in enumerate(FRAMES, 1):
            self._worker.emit(attempt, events.Stepped(step=step, steps=2, seconds=0.1))
            self._worker.emit(attempt, events.Previewed(step=step), frame)
        (self.storage.local_folder / f"{attempt.name}.mp4").write_bytes(VIDEO)
        digest = hashlib.sha256(VIDEO).hexdigest()
        names = {"video": f"{attempt.name}.mp4", "sidecar": f"{attempt.name}.json"}
        if self.poster is not None:
            (self.storage.local_folder / f"{attempt.name}.jpg").write_bytes(self.poster)
            names |= {"poster": f"{attempt.name}.jpg", "poster_sha256": hashlib.sha256(self.poster).hexdigest()}
        self._worker.commit(attempt, events.Done(result=Result(size=len(VIDEO), sha256=digest, **names)))

    def ltx(self, *words):
        """Run a command; return its result."""
        return CliRunner().invoke(main, [str(word) for word in words])
