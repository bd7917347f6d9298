"""The command `ltx-worker start`: check everything that a worker needs, then serve jobs until stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NoReturn

import click
import redis
from pydantic import SecretStr, ValidationError

from ltx_client.shared.broker.client import Purpose, make_client
from ltx_client.shared.broker.connection_errors import why_refused
from ltx_client.shared.broker.first_contact import greet
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.config import ConfigError
from ltx_client.shared.console.stdio import LineFormatter
from ltx_client.shared.doctor.broker_checks import BrokerChecks
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.doctor.replay_check import examine_replay
from ltx_client.shared.memory_budget import check_serves, why_too_much
from ltx_client.shared.settings import HomeSettings, broker_address, why_invalid
from ltx_client.shared.storage.store import Storage, StorageError
from ltx_models.errors import CheckpointError, ModelError
from ltx_models.families.variants import find_variant
from ltx_models.files.model_files import find_files, models_folder
from ltx_models.machine_faults import machine_fault
from ltx_worker.commands.errors import Unavailable, unavailable
from ltx_worker.commands.service import as_the_service
from ltx_worker.engine.supervisor import ENGINE
from ltx_worker.machine.home import (
    UnusableHome,
    forget_refusal,
    make_home,
    note_refusal,
)
from ltx_worker.machine.open_files import raise_limit
from ltx_worker.membership.instance_lock import (
    AlreadyRunning,
    instance_lock,
    running_worker,
)
from ltx_worker.service.environment import UnsafeFile, load_environment
from ltx_worker.service.journal import JournalFormatter, is_journal
from ltx_worker.service.launchd import is_job_of_launchd
from ltx_worker.settings import WorkerSettings
from ltx_worker.threads.daemon import daemon

__all__ = ["start"]

log = logging.getLogger(__name__)

LOG_BYTES, LOG_FILES = 10 * 2**20, 5
NOOP_ENGINE = "ltx_worker.engine.noop"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def start(
    *,
    variant: str,
    log_level: str,
    log_file: Path | None,
    env_file: Path | None,
    no_op: bool,
    until_stdin_closes: bool,
) -> None:
    """Serve jobs of one variant until stopped."""
    raise_limit()
    with _refusals_kept(logged=log_file is not None or is_journal(sys.stderr)):
        _set_up_logging(log_level, log_file)
        _start(variant, env_file, NOOP_ENGINE if no_op else ENGINE, until_stdin_closes=until_stdin_closes)


def _start(variant: str, env_file: Path | None, engine: str, *, until_stdin_closes: bool) -> NoReturn:
    try:
        if env_file is not None:
            load_environment(env_file)
        settings = WorkerSettings()
        check_serves(find_variant(variant), settings.worker_memory_gb)
        if settings.broker_url is None:
            raise click.UsageError("no broker is set; set LTX_BROKER_URL to redis://[USER:PASSWORD@]HOST:PORT/DB")
        if settings.storage_url is None:
            raise click.UsageError("no storage is set; set LTX_STORAGE_URL to the folder or URL for finished videos")
        make_home(settings.home)
        storage = Storage(settings.storage_url)
        storage.check()
        if (models := models_folder()) and not models.is_dir():  # a share that is mounted later than this starts
            unavailable(f"LTX_MODELS_DIR {models} does not exist; mount its share, or set it to an existing folder")
        find_files(find_variant(variant))
    except (ModelError, UnsafeFile) as error:
        download = f"ltx models download {find_variant(variant).name}" if isinstance(error, CheckpointError) else ""
        raise click.UsageError(as_the_service(str(error), download) if download else str(error)) from error
    except (StorageError, UnusableHome) as error:
        unavailable(str(error))
    except OSError as error:
        unavailable(_why_no_home(settings.home, error))
    if refused := _why_refused(settings, settings.broker_url):
        unavailable(refused)
    from ltx_worker.celery.app import run_worker  # Celery takes half a second to import

    if until_stdin_closes:
        daemon(_end_with_stdin, "stdin").start()
    log.info("broker %s, storage %s", broker_address(settings.broker_url), storage.url)
    if too_much := why_too_much(settings.worker_memory_gb):
        log.warning("%s", too_much)
    try:
        with instance_lock(settings.home) as here:
            forget_refusal(settings.home)
            sys.exit(run_worker(settings, settings.broker_url, storage, find_variant(variant).name, here, engine))
    except AlreadyRunning as error:  # it may be about to end
        unavailable(str(error))
    except OSError as error:
        if machine_fault(error) is None:
            raise
        unavailable(_why_no_home(settings.home, error))


@contextlib.contextmanager
def _refusals_kept(*, logged: bool) -> Iterator[None]:
    """Record why a worker does not start, for `status` and `install`, and in the log that its operator reads.

    launchd starts a job again after any exit code but 0, so wrong settings end with code 0 there; systemd knows code 2.
    """
    try:
        yield
    except (click.ClickException, ConfigError, ValidationError) as error:
        sentence = why_invalid(error) if isinstance(error, ValidationError) else str(error)
        with contextlib.suppress(ConfigError, ValidationError, OSError):
            home = HomeSettings().home
            if running_worker(home) is None:  # a running worker may be the reason, which is over when it ends
                note_refusal(home, sentence, is_final=not isinstance(error, Unavailable))
        if logged and logging.getLogger().hasHandlers():
            log.critical("the worker does not start: %s", sentence)
        if is_job_of_launchd() and not isinstance(error, Unavailable):
            sys.exit(0)
        raise


def _why_no_home(home: Path, error: OSError) -> str:
    return (
        f"this machine cannot work for the farm now: {error.strerror or error}; its own files are in LTX_HOME {home}:"
        " use a folder that this user can write, with free space"
    )


def _why_refused(settings: WorkerSettings, broker_url: SecretStr) -> str | None:
    """Return why waiting for this broker is useless, or why it must not be used; None if the worker can start.

    A broker that does not answer may be about to start. Other reasons for which it may lose jobs are logged.
    """
    broker = Broker.parse(broker_url.get_secret_value())
    with make_client(broker, Purpose.WORKER_START) as client:
        checks = BrokerChecks(lambda: client, broker_url, settings.names)
        try:
            greet(client, broker)
            replayed = examine_replay(client, settings.names)
            found = [finding for check in (checks.broker, checks.logging, checks.memory) for finding in check()]
        except redis.RedisError as error:
            return why_refused(error, broker.address)
    if replayed.level is Level.FAILURE:
        return f"the broker at {broker.address} is not used: {replayed.text}; {replayed.fix}"
    for finding in found:
        if finding.level is Level.FAILURE:
            log.warning("the broker at %s: %s; to fix it, %s", broker.address, finding.text, finding.fix)
    return None


def _set_up_logging(level: str, path: Path | None) -> None:
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    try:
        if path is not None:
            handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        journal = path is None and is_journal(sys.stderr)
        handler.setFormatter(JournalFormatter() if journal else LineFormatter(LOG_FORMAT))
        logging.basicConfig(level=level.upper(), handlers=[handler])
    except OSError as error:
        raise click.UsageError(f"cannot write the log {path}: {error.strerror}") from error
    except ValueError as error:
        raise click.UsageError(f"--log-level {level} is invalid; use DEBUG, INFO, WARNING or ERROR") from error


def _end_with_stdin() -> None:
    with contextlib.suppress(OSError, ValueError):  # which is its end as well
        while os.read(sys.stdin.fileno(), 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
