"""A farm whose workers render nothing, fast, to test everything around a render. Each worker has a proxy."""

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field

from ltx_client.farm.broker import connect
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.ledger import scripts as client_ledger
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol.names import Names
from ltx_client.shared.lua.lua_script import LuaScript
from ltx_models.request import GenerationRequest
from ltx_worker.ledger import scripts
from tests.integration.conftest import PATIENCE, ltx_here, wait_until
from tests.integration.faults.harness import STAND_IN
from tests.integration.faults.proxy import Proxy
from tests.storages import made

LEASE = 3.0
START = (
    "from ltx_worker.commands import start; start.NOOP_ENGINE = 'slow_engine';"
    " from ltx_worker.cli import main; main(['start', '--no-op'])"
)


def scripts_of(module):
    """Return the texts of a module's scripts by their names there."""
    return {name: script.text for name, script in vars(module).items() if isinstance(script, LuaScript)}


WORKER_SCRIPTS = {
    **{name: script.text for name, script in scripts.SCRIPTS.items()},
    **scripts_of(scripts),
}
CLIENT_SCRIPTS = scripts_of(client_ledger)


@dataclass
class QuickWorker:
    process: subprocess.Popen
    proxy: Proxy
    log: object
    spool: object

    def kill(self):
        self.process.kill()
        self.process.wait()


@dataclass
class QuickFarm:
    """A quick farm; `settings` are those of its workers, in lower case."""

    folder: object
    env: dict
    workers: dict = field(default_factory=dict)

    def __post_init__(self):
        self.names = Names()
        broker = FarmFolder(self.folder / "broker")
        broker.create()
        self.server = Server(broker)
        self.storage = self.folder / "storage"
        made(self.storage)
        self.client_env = {
            **self.env,
            "LTX_BROKER_URL": self.server.address.url.get_secret_value(),
            "LTX_STORAGE_URL": str(self.storage),
            "LTX_HOME": str(self.folder / "home"),
        }

    def url_through(self, proxy):
        return f"redis://:{self.server.address.password}@127.0.0.1:{proxy.port}/0"

    def start_worker(self, name="one", command=(sys.executable, "-c", START), step=0.05, **settings):
        defaults = {
            "lease": LEASE,
            "renew_every": 0.3,  # so that a strike of 0.4 s meets a renewal
            "reap_every": 0.2,
            "heartbeat_every": 0.3,
            "save_every": 0,
            "deliver_for": 0.3,
            "stop_grace": 2,
            "name": name,
        }
        proxy = self.workers[name].proxy if name in self.workers else Proxy(self.server.address.port)
        env = {
            **self.client_env,
            "LTX_BROKER_URL": self.url_through(proxy),
            "LTX_HOME": str(self.folder / f"worker-{name}"),
            "PYTHONPATH": str(STAND_IN),
            "SLOW_ENGINE_STEP": str(step),
            **{f"LTX_WORKER_{key.upper()}": str(value) for key, value in {**defaults, **settings}.items()},
        }
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(list(command), env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.workers[name] = QuickWorker(process, proxy, log, self.folder / f"worker-{name}" / "spool")
        with self.connect() as farm:
            wait_until(
                lambda: any(worker.name == name and worker.threads for worker in farm.workers()),
                what=f"worker {name} being up",
            )
        return self.workers[name]

    @contextlib.contextmanager
    def connect(self):
        with connect(self.server.address.url) as client:
            yield Farm.over(client, self.server.address.url, self.names, str(self.storage))

    @contextlib.contextmanager
    def admin(self):
        with self.server.address.connect() as client:
            yield client

    def submit(self, steps=10, **options):
        prepared = prepare(GenerationRequest(prompt="nothing", num_steps=steps, seed=1), checkpoint_every=0, **options)
        with self.connect() as farm:
            farm.send(*prepared)
        return prepared.job.id

    def snapshot(self, job_id):
        with self.connect() as farm:
            return farm.view(job_id).snapshot

    def await_ended(self, *ids, timeout=PATIENCE):
        for job_id in ids:
            wait_until(lambda job_id=job_id: self.snapshot(job_id).ended, timeout, f"job {job_id} ending")
        return [self.snapshot(job_id) for job_id in ids]

    def said(self):
        """Return the output of `ltx workers --json`."""
        return json.loads(ltx_here("workers", "--json", env=self.client_env).stdout)

    def close(self):
        for worker in self.workers.values():
            worker.proxy.release()
            worker.proxy.pass_all()
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            try:
                worker.process.wait(PATIENCE)
            finally:
                worker.process.kill()
                worker.proxy.close()
        self.server.stop()
