"""Check what `ltx doctor` checks on the machine of somebody who submits. A worker's doctor adds its own checks."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import stat
from collections.abc import Iterator
from importlib import metadata

from redis.exceptions import NoPermissionError

from ltx_client.errors import FarmError
from ltx_client.farm.broker import connect
from ltx_client.farm.pauses import Pauses
from ltx_client.local.join import how_to_render
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import find_server
from ltx_client.local.videos import is_made
from ltx_client.protocol import PROTOCOL_VERSION
from ltx_client.protocol.workers import PAUSED, UNREADY, worker_names
from ltx_client.shared.broker.exchange import run
from ltx_client.shared.config import chosen_farm, config_path, load
from ltx_client.shared.doctor.broker_checks import BrokerChecks
from ltx_client.shared.doctor.checks import Check, Finding, Level
from ltx_client.shared.doctor.ffmpeg_check import examine_ffmpeg
from ltx_client.shared.doctor.storage_checks import StorageChecks, different_storages, space
from ltx_client.shared.live_workers import live_workers
from ltx_client.shared.memory_budget import BudgetSettings, ServesNothing, check_serves
from ltx_client.shared.settings import FarmSettings
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant
from ltx_models.files.file_lock import why_not_lockable
from ltx_models.files.volumes import check_mounted

__all__ = ["client_checks"]

PACKAGES = ("ltx-farm", "celery", "kombu", "redis", "fsspec")
PRIVATE = stat.S_IRWXG | stat.S_IRWXO
LOCAL_DISK = "set LTX_HOME to a folder on a disk of this machine"
EXTRA = "pip install 'ltx-farm[worker,embedded]'"


def client_checks(settings: FarmSettings) -> list[Check]:
    """Return all checks in the order of the report."""
    here = Machine(settings)
    checks: list[Check] = [here.versions, here.configuration, here.home]
    if settings.broker_url is None:
        folder = FarmFolder(settings.home)
        own = StorageChecks(str(folder.videos), is_coming=not is_made(folder.videos, folder.videos_note))
        return [*checks, here.own_farm, *own.checks(), here.ffmpeg]
    url = settings.broker_url
    broker = BrokerChecks(lambda: connect(url), url, settings.names)

    def workers() -> Iterator[Finding]:
        with contextlib.suppress(NoPermissionError):  # which `rights` reports
            yield from _workers(broker, settings)

    return [
        *checks,
        *broker.checks(),
        workers,
        *StorageChecks(settings.storage_url, workers=broker.live_workers).checks(),
        here.ffmpeg,
    ]


class Machine:
    """Checks of this machine."""

    def __init__(self, settings: FarmSettings) -> None:
        self._settings = settings

    def versions(self) -> Iterator[Finding]:
        """Report the installed versions."""
        found = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
        yield Finding("versions", Level.OK, f"{found}, Python {platform.python_version()}")

    def configuration(self) -> Iterator[Finding]:
        """Report which farm is used, and check whether others can read its password."""
        path = config_path()
        yield Finding("configuration", Level.OK, f"farm {chosen_farm(load())}, {path if path.is_file() else 'no file'}")
        for secret in (path, self._settings.broker_password_file, self._settings.broker_sentinel_password_file):
            file = secret and secret.expanduser()
            if file and file.is_file() and file.stat().st_mode & PRIVATE:
                yield Finding(
                    "configuration", Level.WARNING, f"others on this machine may read {file}", f"chmod 600 '{file}'"
                )

    def home(self) -> Iterator[Finding]:
        """Check whether this machine's own folder can be written."""
        folder = self._settings.home
        try:
            check_mounted(folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"{folder} cannot be created: {error.strerror or error}"
            yield Finding("home", Level.FAILURE, text, "set LTX_HOME to a folder that this user can write")
            return
        problems = FarmFolder(folder).problems()
        for problem in problems:
            yield Finding("home", Level.FAILURE, problem.text, problem.fix)
        if problems:
            return
        try:
            why = "" if self._settings.broker_url else why_not_lockable(folder)
        except OSError as error:
            why = f"cannot be used: its locks fail ({error.strerror})"
        yield Finding("home", Level.FAILURE, f"{folder} {why}", LOCAL_DISK) if why else space("home", folder)

    def own_farm(self) -> Iterator[Finding]:
        """Check, if no broker is set, whether this machine can render by itself."""
        if importlib.util.find_spec("mlx") is None:
            text = "no broker is set, and MLX is not installed: nothing can be rendered"
            yield Finding("own farm", Level.FAILURE, text, f"ltx config set broker_url …, or {how_to_render()}")
            return
        try:
            server = find_server()
            check_serves(find_variant(DEFAULT_VARIANT), BudgetSettings().worker_memory_gb)
        except FarmError as error:
            yield Finding("own farm", Level.FAILURE, str(error), EXTRA)
        except ServesNothing as error:
            yield Finding("own farm", Level.FAILURE, str(error), "unset LTX_WORKER_MEMORY_GB")
        else:
            yield Finding("own farm", Level.OK, f"no broker is set: this machine renders, with {server}")

    def ffmpeg(self) -> Iterator[Finding]:
        """Check ffmpeg, which makes contact sheets and, if no broker is set, this machine's videos."""
        missing = [name for name in ("PIL", "imageio_ffmpeg") if importlib.util.find_spec(name) is None]
        if missing:
            yield Finding(
                "ffmpeg", Level.OK, "not installed; only contact sheets (ltx download --sheet) and workers need it"
            )
            return
        renders = self._settings.broker_url is None and importlib.util.find_spec("mlx") is not None
        yield examine_ffmpeg(renders=renders)


def _workers(broker: BrokerChecks, settings: FarmSettings) -> Iterator[Finding]:
    """Check which workers are alive, and whether they have the same version."""
    if broker.client is None:
        return
    workers = live_workers(broker.client, settings.names)
    if not workers:
        yield Finding(
            "workers", Level.WARNING, "no worker is alive: jobs wait", "ltx-worker start, on a Mac of the farm"
        )
        return
    own = metadata.version("ltx-farm")
    yield Finding("workers", Level.OK, f"{len(workers)} alive: {', '.join(worker_names(workers).values())}")
    if settings.storage_url is None and (different := different_storages(workers)):
        yield different
    for worker in workers:
        if worker.protocol != PROTOCOL_VERSION:
            text = f"{worker.name} speaks protocol {worker.protocol}, and this client {PROTOCOL_VERSION}"
            yield Finding("workers", Level.FAILURE, text, "pip install --upgrade ltx-farm, on the older side")
        elif worker.version != own:
            text = f"{worker.name} has ltx-farm {worker.version}, and this client {own}"
            yield Finding("workers", Level.WARNING, text, "pip install --upgrade ltx-farm, on the older side")
        if worker.note:
            yield Finding("workers", Level.OK, f"{worker.name}: {worker.note}")
        if worker.state == PAUSED:
            text = f"{worker.name} is paused: {worker.why_paused}"
            yield Finding("workers", Level.WARNING, text, "ltx-worker resume, on that machine, once it is fixed")
        if worker.state == UNREADY:
            text = f"{worker.name} cannot continue: {worker.why_paused}"
            yield Finding("workers", Level.FAILURE, text, "ltx-worker logs, on that machine; it is restarted soon")
        for thread in worker.threads:
            if thread.failing:
                text = f"the thread {thread.name} of {worker.name} fails: {thread.error}"
                yield Finding("workers", Level.WARNING, text, "ltx-worker logs, on that machine")
    for pause in run(broker.client, Pauses(settings.names).all()):
        yield Finding(
            "workers", Level.WARNING, f"{pause.of} {pause.name} was paused by {pause.by}", pause.resume_command
        )
