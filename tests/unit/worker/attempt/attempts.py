"""A machine's worker but for its processes: the real renderer, finisher, spool, ledger and health, and an engine that
renders nothing, in this process.
"""

import functools
import hashlib
import math
import threading
from concurrent.futures import Future

from ltx_worker.attempt.attempt import Attempt, WorkerContext
from ltx_worker.attempt.delivery import Spool
from ltx_worker.attempt.finish import Finisher
from ltx_worker.attempt.lease import Leases
from ltx_worker.attempt.outcomes import Outcomes
from ltx_worker.attempt.render import Renderer
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.states import BEGINNINGS, TRANSITIONS
from ltx_worker.attempt.work_folders import WorkFolders
from ltx_worker.engine import messages
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.machine.health import Health
from ltx_worker.machine.probes import Probes
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.queue.claiming import TurnTaker
from ltx_worker.settings import WorkerSettings
from tests.storages import made

NOBODY = "0" * 64
STEPS = 2
MP4 = b"no video"


class Engine:
    """`says`: makes the messages of a render of its command, and may set `video`."""

    ready = messages.Ready(device="none", checkpoint_hash=NOBODY, mlx="none", embeds_by=NOBODY)
    is_rendering = False

    def __init__(self):
        self.says = self.well
        self.video = Future()
        self.resumed = []

    def render(self, make, should_stop, limit=math.inf):
        self.video = Future()
        command = make(self.ready)
        self.resumed.append(command.resume)
        yield from self.says(command)

    def well(self, command):
        yield messages.TextEncoded()
        yield from (messages.Stepped(step=n + 1, steps=STEPS, seconds=0.1, resume=b"point") for n in range(STEPS))
        yield messages.HandOver()
        command.output.write_bytes(MP4)
        sha256 = hashlib.sha256(MP4).hexdigest()
        self.video.set_result(messages.Written(output=command.output, size=len(MP4), sha256=sha256, seconds=0.0))
        yield messages.Decoded(frames=1)

    def stop_writing(self, output):
        pass

    def encode_ahead(self, texts):
        pass


class Machine:
    """A worker named `name`. probed: what its probes find, which a test may change.  others: whether it knows of other
    machines that serve its jobs.
    """

    def __init__(self, name, client, names, folder, storage, max_in_redis=10**6, observers=()):
        self.name = name
        self.others = True
        self.more_waiting = False
        self.probed = None
        self.engine = Engine()
        self.sent = []
        self.noted = []
        self.home = folder / name
        (self.home / "work").mkdir(parents=True)
        settings = WorkerSettings(home=self.home, worker_name=name, worker_deliver_for=0.1)
        self.ledger = Ledger(client, names)
        self.health = Health(
            name,
            self.ledger.read,
            lambda _: self.others,
            hand_on=60,
            probe=lambda _: self.probed,
            note=self.noted.append,
        )
        self.heartbeat = Heartbeat(settings, client, "pocket", self.health)
        self.heartbeat._identity.worker_id = name
        store = made(storage)
        points = ResumePoints(self.ledger, store, self.home / "work", max_in_redis)
        leaving = threading.Event()
        context = WorkerContext(
            ledger=self.ledger,
            engine=self.engine,
            storage=store,
            points=points,
            health=self.health,
            heartbeat=self.heartbeat,
            leaving=leaving,
            observers=observers,
        )
        outcomes = Outcomes(context, lambda kind, needs: self.probed)
        self.spool = Spool(
            self.home / "spool", store, self.ledger, points, retry_for=0.1, look_every=1, observers=observers
        )
        send = functools.partial(lambda job, priority, later=False: self.sent.append(job.id))
        self.finisher = Finisher(context, outcomes, self.spool, send, stop_grace=1)
        self.renderer = Renderer(
            context,
            outcomes,
            self.finisher,
            settings=settings,
            leases=Leases(client, names, self.ledger, 10),
            turns=TurnTaker(self.ledger, self.heartbeat, self.health, send, leaving, budget_gb=512),
            work=WorkFolders(self.home / "work"),
            are_more_waiting=lambda: self.more_waiting,
            find_fault=Probes([self.home, self.home / "work", self.home / "spool"], store, None, lambda: False).folders,
        )
        self.finisher.start()

    def run(self, job_id):
        """Looks at the job, and sees what it took of it to its end."""
        outcome = self.renderer.run(job_id)
        self.finisher.wait()
        return outcome

    def close(self):
        self.finisher.stop()


def brought_to(state, claim, ledger, observers=()):
    """An attempt in that state, by the shortest way that the table allows."""
    ways = {beginning: (beginning,) for beginning in BEGINNINGS}
    while state not in ways:
        ways = {after: (*ways[before], after) for before, after in TRANSITIONS if before in ways} | ways
    beginning, *rest = ways[state]
    attempt = Attempt(claim, ledger, observers=observers, state=beginning)
    for each in rest:
        attempt.to(each)
    return attempt
