"""The faults, by name. Each strikes while its job is held in some phase, and leaves a farm that can settle."""

import signal
import time
from dataclasses import dataclass

from ltx_client.farm.broker import broker_errors
from ltx_client.protocol.state import ENDED, Status
from ltx_client.shared.celery.messages import publish
from tests.integration.conftest import wait_until
from tests.integration.faults.bad_messages import BAD
from tests.integration.faults.broker_faults import BROKER_FAULTS
from tests.integration.faults.harness import HELD_STEP
from tests.integration.faults.machine_faults import litter_spool, take_descriptors, unmount


@dataclass
class Target:
    """A job that is held in `phase`, by `worker`."""

    farm: object
    job: object
    phase: str
    worker: object

    def let_go(self):
        self.farm.release(self.job.id, self.phase)

    @property
    def expected(self):
        return self.farm.expected[self.job.id]

    def crash(self, times=1):
        """Count a crash for all current jobs of its worker."""
        for job_id in {self.job.id, *self.farm.in_hand_of(self.worker)}:
            self.farm.expected[job_id].crashes += times


def kill_engine(target):
    target.crash()
    for engine in target.worker.engines():
        engine.kill()


def kill_worker(target):
    target.crash()
    target.worker.kill()
    target.let_go()
    target.worker.start()


def kill_server(target):
    with target.farm.server_lock:
        target.farm.kill_server()
        target.let_go()
        time.sleep(0.3)
        target.farm.server.start()


def suspend_worker(target):
    """Suspend the worker past its lease; then let it continue."""
    target.crash()
    target.worker.suspend()
    target.let_go()
    time.sleep(target.farm.lease * 1.5)
    target.worker.resume()


def kill_connections(target):
    with target.farm.admin() as admin:
        for kind in ("normal", "pubsub"):
            admin.client_kill_filter(_type=kind, skipme=True)


def cut_connections(target):
    target.worker.proxy.cut()


def swallow_one(target):
    """Cut one worker and the broker off from each other for longer than the lease."""
    target.crash()
    _swallow(target, [target.worker])


def swallow_all(target):
    _swallow(target, target.farm.workers.values())


def _swallow(target, workers):
    for worker in workers:
        worker.proxy.swallow()
    target.let_go()
    time.sleep(target.farm.lease * 1.5)
    for worker in workers:
        worker.proxy.release()


def _storage(how):
    def strike(target):
        job_id = target.job.id
        target.farm.mark(job_id, "storage", how)
        target.let_go()
        target.farm.wait_beside_others(
            target.worker,
            lambda: target.farm.marked(job_id, "failed") or target.farm.view(job_id).snapshot.ended,
            what="the storage failing",
        )
        time.sleep(1)  # until the video waits in the spool
        target.farm.unmark(job_id, "storage")

    return strike


def deliver_twice(target):
    def publish_again(_):
        with broker_errors("the broker"):
            publish(target.farm.server.address.url, target.farm.names, [target.job])

    target.farm.insist(publish_again)


def cancel(target):
    """Cancel the job.

    If accepted, it must end the job; if the job has ended already, it changes nothing. The server may not lose it
    meanwhile.
    """
    with target.farm.server_lock:
        status = target.farm.insist(lambda farm: farm.cancel(target.job.id))
    if status not in ENDED:
        target.expected.outcomes = frozenset({Status.CANCELLED})


def poison(target):
    """Let the engine die each time that it comes to this phase.

    In a phase without the engine it dies once, which must not matter. An attempt that dies with it, dies once: from its
    second attempt on, the job has the engine to itself.
    """
    if target.phase in ("uploading", "committing", "committed"):
        kill_engine(target)
        return
    phase = "loading" if target.phase == "queued" else target.phase
    target.farm.mark(target.job.id, f"{phase}.die")
    target.farm.mark(target.job.id, "step", str(HELD_STEP))
    target.expected.outcomes = frozenset({Status.FAILED})
    target.expected.crashes += 3
    for expected in target.farm.expected.values():
        expected.crashes += 1
    if target.phase != "queued":
        kill_engine(target)


def _machine(error):
    """Return a fault that the machine has in a phase of the engine; in others, nothing."""

    def strike(target):
        if target.phase in ("loading", "text", "denoising", "decoding", "writing"):
            target.crash()
            if error == "NaN":  # the job is begun again: what was saved may be wrong
                target.expected.crashes += target.expected.steps
            target.farm.mark(target.job.id, f"{target.phase}.fail", error)

    return strike


def _stop(*signals):
    def strike(target):
        for number in signals:
            target.worker.signal(number)
            time.sleep(0.05)
        target.let_go()

        def has_ended():
            target.farm.let_go_of(target.worker)  # also what comes to its phase only now
            return target.worker.process.poll() is not None

        wait_until(has_ended, what="the worker's end")
        target.worker.start()

    return strike


def _send(make):
    """Put a bad message first in the queue, so that the next free worker takes it."""

    def strike(target):
        names, queue = target.farm.names, target.job.queue
        with target.farm.admin() as client:
            client.rpush(names.namespace + queue, make(queue, target.job.id))

    return strike


@dataclass(frozen=True)
class Fault:
    """A fault.

    quick: over at once, and leaves every process as it is. crash: its job's attempt ends silently. broker: resume
    points may be unacknowledged for a while.
    """

    name: str
    strike: object
    quick: bool = False
    crash: bool = False
    broker: bool = False


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("engine killed", kill_engine, crash=True),
        Fault("worker killed", kill_worker, crash=True),
        Fault("server killed", kill_server, broker=True),
        Fault("worker suspended past its lease", suspend_worker, crash=True),
        Fault("one worker cut off past its lease", swallow_one, crash=True, broker=True),
        Fault("broker away past the lease", swallow_all, broker=True),
        *(Fault(name, strike, broker=True) for name, strike in BROKER_FAULTS.items()),
        Fault("no descriptor left", take_descriptors),
        Fault("storage read-only", _storage("read-only")),
        Fault("storage full", _storage("full")),
        Fault("storage fails in mid-write", _storage("mid-write")),
        Fault("storage keeps half", _storage("half")),
        Fault("storage keeps nothing", _storage("nothing")),
        Fault("share unmounted", unmount),
        Fault("cancel", cancel),
        Fault("engine dies every time", poison),
        *(Fault(f"machine {error}", _machine(error)) for error in ("ENOSPC", "EMFILE", "EACCES", "EIO", "NaN")),
        Fault("SIGTERM", _stop(signal.SIGTERM)),
        Fault("SIGTERM twice", _stop(signal.SIGTERM, signal.SIGTERM)),
        Fault("SIGQUIT", _stop(signal.SIGQUIT)),
        Fault("drain", _stop(signal.SIGUSR1)),
        Fault("CLIENT KILL", kill_connections, quick=True),
        Fault("connections cut", cut_connections, quick=True),
        Fault("message delivered twice", deliver_twice, quick=True),
        Fault("stray files in the spool", litter_spool, quick=True),
        *(Fault(name, _send(make), quick=True) for name, make in BAD.items()),
    )
}


def strike(farm, job, phase, *names):
    """Wait for the job in its phase, strike with these faults in turn, and release it; return its worker.

    None if another job's fault, which stopped or waited for the same worker, came first. The cost of a crash counts
    from the newest acknowledged resume point, so that point is at most a step behind.
    """
    worker = farm.await_held_or_let_go(job.id, phase)
    if worker is None:
        return None
    with worker.lock:
        worker = farm.await_held_again(job.id, phase, worker)
        if worker is None:
            return None
        farm.await_saved(job.id, phase)
        if not farm.holds(job.id, phase):
            return None
        target = Target(farm, job, phase, worker)
        for name in names:
            farm.expected[job.id].struck_at[name] = time.time()
            FAULTS[name].strike(target)
        target.let_go()
    return worker
