"""Provide a farm that can be broken.

It has a server, workers that each connect to it through a proxy, storage that fails on demand, and jobs that can be
held in any phase.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from ltx_client.errors import BrokerUnreachable
from ltx_client.farm.broker import connect
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from ltx_models.resume_point import ResumePoint
from tests.clips import read_clip
from tests.integration.conftest import PATIENCE, PROMPT, processes_of, wait_until
from tests.integration.faults.proxy import Proxy
from tests.storages import made

STAND_IN = Path(__file__).parent / "stand_in"
PHASES = ("queued", "loading", "text", "denoising", "decoding", "writing", "uploading", "committing", "committed")
"""queued: delivered to a worker, not claimed yet.  uploading: in the middle of the file.  committing: all is stored.
committed: the worker does not know yet.
"""
STEPS = 6
HELD_STEP = 3
"""The step after which a job is held in the phase "denoising"."""


@dataclass
class Expectation:
    """How a job may end, as its script predicts; `crashes`: how often a process that worked on it was killed."""

    seed: int
    steps: int
    outcomes: frozenset[Status] = frozenset({Status.DONE})
    crashes: int = 0
    struck_at: dict[str, float] = field(default_factory=dict)


class Worker:
    """One worker's home, process and proxy; a restart makes the same worker again."""

    def __init__(self, name, home, env, log, proxy):
        self.name = name
        self.home = home
        self.proxy = proxy
        self.lock = threading.Lock()
        self.log = log
        self._env = env
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self._started_at = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ltx_worker", "start"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def engines(self):
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if "ltx_worker.engine" in " ".join(child.cmdline())]
        return []

    @property
    def was_refused(self):
        """Return whether it ended before it served, because the broker must not be used."""
        served = b" serves pocket." in self.log.read_bytes()[self._started_at :]
        return self.process.returncode == os.EX_UNAVAILABLE and not served

    def kill(self):
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def await_exit(self, timeout=PATIENCE):
        return self.process.wait(timeout)

    def suspend(self):
        self.stopped = [psutil.Process(self.process.pid), *self.engines()]
        for process in self.stopped:
            process.suspend()

    def resume(self):
        for process in self.stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


class BreakableFarm:
    """A farm that can be broken; `settings` are those of its workers, LTX_WORKER_… in lower case."""

    def __init__(self, folder, env, **settings):
        self.folder = folder
        self.names = Names()
        self.lease = settings.get("lease", 3.0)
        broker = FarmFolder(folder / "broker")
        broker.create()
        self.server = Server(broker)
        self.server_lock = threading.Lock()
        self.storage = folder / "storage"
        made(self.storage)
        self.storage_lock = threading.Lock()
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.workers = {}
        self.expected = {}
        self.references = {}
        self.found = set()
        self.clean = set()
        self.died = []
        defaults = {
            "lease": self.lease,
            "renew_every": self.lease / 4,
            "reap_every": 0.5,
            "heartbeat_every": 0.5,
            "sweep_every": 0.5,
            "save_every": 0,
            "deliver_for": 0.5,
            "stop_grace": 3,
        }
        settings = {key: value for key, value in {**defaults, **settings}.items() if value is not None}
        self._env = {
            **env,
            **{f"LTX_WORKER_{key.upper()}": str(value) for key, value in settings.items()},
            "PYTHONPATH": str(STAND_IN),
            "LTX_FAULTS": str(self.marks),
            "LTX_STORAGE_URL": f"faulty://{self.storage}",
        }

    def add_worker(self, name, **variables):
        """Start a worker without waiting; `variables` are added to its environment."""
        proxy = Proxy(self.server.address.port)
        home = self.folder / f"worker-{name}"
        url = f"redis://:{self.server.address.password}@127.0.0.1:{proxy.port}/0"
        env = {**self._env, **variables, "LTX_HOME": str(home), "LTX_WORKER_NAME": name, "LTX_BROKER_URL": url}
        self.workers[name] = Worker(name, home, env, self.folder / f"{name}.log", proxy)
        return self.workers[name]

    def await_workers(self):
        """Wait until every worker is up; a worker that ended by itself is recorded, and restarted."""
        for worker in self.workers.values():
            with worker.lock:
                if worker.process.poll() is not None:
                    if not worker.was_refused:
                        self.died.append(f"worker {worker.name} ended by itself, with {worker.process.returncode}")
                    worker.start()
        names = set(self.workers)
        wait_until(
            lambda: {worker.name for worker in self.insist(lambda farm: farm.workers())} == names,
            what="every worker being up",
        )

    @contextlib.contextmanager
    def connect(self):
        """Return the client's view, directly from the server."""
        url = SecretStr(self.server.address.url.get_secret_value())
        with connect(url) as client:
            yield Farm.over(client, url, self.names, str(self.storage))

    @contextlib.contextmanager
    def admin(self):
        """Return a client of the server itself, which is not killed meanwhile."""
        with self.server_lock, self.server.address.connect() as client:
            yield client

    def insist(self, ask):
        """Return what `ask(farm)` returns, once the broker answers."""
        retrying = Retrying(
            retry=retry_if_exception_type(BrokerUnreachable), wait=wait_fixed(0.1), stop=stop_after_delay(PATIENCE)
        )
        for attempt in retrying:
            with attempt, self.connect() as farm:
                return ask(farm)
        raise AssertionError("not reached: the last error is raised")

    def submit(self, seed=1, steps=STEPS, hold=None, **options):
        """Submit a job; `hold` is the phase in which it waits."""
        request = GenerationRequest(prompt=PROMPT, num_steps=steps, seed=seed)
        prepared = prepare(request, checkpoint_every=0, **options)
        job = prepared.job
        if hold:
            self.hold(job.id, hold)
        self.expected[job.id] = Expectation(seed, steps)
        self.insist(lambda farm: farm.send(*prepared))
        return job

    def view(self, job_id):
        return self.insist(lambda farm: farm.view(job_id))

    def saved_step(self, job_id):
        """Return the step of the newest resume point that the broker has."""
        with self.admin() as client:
            saved = client.get(self.names.latents(job_id))
        return ResumePoint.unpack(saved).step if saved else 0

    def await_saved(self, job_id, phase):
        """Wait until a job that is held in `phase` has a resume point at most a step behind, or is released.

        It returns at once for a job that may lose all its steps: a broker that refused its resume point is not asked
        again.
        """
        if self.expected[job_id].crashes == math.inf:
            return
        if phase in PHASES[PHASES.index("denoising") : PHASES.index("committed")]:
            done = HELD_STEP if phase == "denoising" else self.expected[job_id].steps
            wait_until(
                lambda: self.saved_step(job_id) >= done - 1 or not self.holds(job_id, phase),
                what=f"the resume point of job {job_id}",
            )

    def mark(self, job_id, what, text=""):
        temporary = self.marks / f"{job_id}.{what}.new"
        temporary.write_text(text)
        temporary.replace(self.marks / f"{job_id}.{what}")

    def unmark(self, job_id, what):
        (self.marks / f"{job_id}.{what}").unlink(missing_ok=True)

    def marked(self, job_id, what):
        return (self.marks / f"{job_id}.{what}").exists()

    def hold(self, job_id, phase):
        """Let the job wait when it comes to `phase`."""
        if phase == "denoising":
            self.mark(job_id, "step", str(HELD_STEP))
        self.mark(job_id, f"{phase}.hold")

    def release(self, job_id, phase):
        self.unmark(job_id, f"{phase}.hold")
        self.unmark(job_id, f"{phase}.held")

    def await_held(self, job_id, phase, timeout=PATIENCE):
        """Return the worker that has the job in `phase`, once there is one."""
        return wait_until(lambda: self._holder(job_id, phase), timeout, f"job {job_id} being held in {phase}")

    def await_held_or_let_go(self, job_id, phase):
        """Return the same; None if the job was released before it came there, since another's fault waited for it."""
        wait_until(
            lambda: self._holder(job_id, phase) or not self.marked(job_id, f"{phase}.hold"),
            what=f"job {job_id} being held in {phase}",
        )
        return self._holder(job_id, phase)

    def await_held_again(self, job_id, phase, worker):
        """Return the same for a job that `worker` had, and that may have been released; None once it has ended."""

        def is_so():
            return self._holder(job_id, phase) or self.view(job_id).snapshot.ended

        self.wait_beside_others(worker, is_so, f"job {job_id} being held in {phase}", but=job_id)
        return self._holder(job_id, phase)

    def wait_beside_others(self, worker, condition, what, but=None):
        """Wait. Other current jobs of the worker may have to end first, and are released after a while."""
        patience = time.monotonic() + 1

        def is_so():
            if time.monotonic() > patience:
                self.let_go_of(worker, but=but)
            return condition()

        return wait_until(is_so, what=what)

    def holds(self, job_id, phase):
        """Return whether the job waits in this phase now."""
        return self._holder(job_id, phase) is not None

    def in_hand_of(self, worker):
        """Return its jobs that may not have ended; all such jobs of the farm while the broker is down."""
        ids = self.expected.keys() - self.clean
        try:
            with self.connect() as farm:
                snapshots = {job_id: farm.view(job_id).snapshot for job_id in ids}
        except BrokerUnreachable:
            return ids
        return {
            job_id
            for job_id, snapshot in snapshots.items()
            if snapshot.status is Status.RUNNING and snapshot.worker_name == worker.name
        }

    def let_go_of(self, worker, but=None):
        """Release all jobs of this worker, except `but`, whichever phase they are held in."""
        for mark in self.marks.glob("*.held"):
            job_id, phase, _ = mark.name.rsplit(".", 2)
            if job_id != but and self._holder(job_id, phase) is worker:
                self.release(job_id, phase)

    def let_all_go(self):
        """Has no job wait or meet anything any longer."""
        for mark in self.marks.iterdir():
            mark.unlink(missing_ok=True)

    def _holder(self, job_id, phase):
        try:
            process = psutil.Process(int((self.marks / f"{job_id}.{phase}.held").read_text()))
            parents = {process.pid, process.ppid()}
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return next((worker for worker in self.workers.values() if worker.process.pid in parents), None)

    def await_ended(self, *job_ids, timeout=PATIENCE):
        """Wait until these jobs have ended, by their state and not only by what is shown of them."""
        for job_id in job_ids:
            wait_until(lambda job_id=job_id: self.view(job_id).snapshot.ended, timeout, f"job {job_id} ending")

    def render_references(self, seeds, steps=STEPS):
        """Render an undisturbed video for each seed, to compare others with."""
        jobs = {seed: self.submit(seed, steps) for seed in seeds}
        self.await_ended(*(job.id for job in jobs.values()))
        for seed, job in jobs.items():
            snapshot = self.view(job.id).snapshot
            assert (snapshot.status, snapshot.attempt) == (Status.DONE, 1)
            self.references[seed, steps] = read_clip(self.storage / snapshot.result.video).frames

    def kill_server(self):
        self.server._process.kill()
        self.server._process.wait()

    def close(self):
        """Stop workers and server; return the processes that remained, killed."""
        self.let_all_go()
        for worker in self.workers.values():
            worker.proxy.release()
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.signal(signal.SIGTERM)
        for worker in self.workers.values():
            worker.process.wait(PATIENCE)
            worker.proxy.close()
        self.server.stop()
        deadline = time.monotonic() + 60
        while (left := processes_of(self.folder)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGKILL)
        return left
