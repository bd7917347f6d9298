"""The `ltx-worker` command."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, NoReturn

import click
import redis
from pydantic import SecretStr, ValidationError

from ltx_client.shared.broker.client import Purpose, make_client
from ltx_client.shared.broker.connection_errors import why_refused
from ltx_client.shared.broker.first_contact import greet
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.config import ConfigError
from ltx_client.shared.console.stdio import Group, LineFormatter, notice, print_line
from ltx_client.shared.doctor.broker_checks import BrokerChecks
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.doctor.replay_check import examine_replay
from ltx_client.shared.memory_budget import check_serves, why_too_much
from ltx_client.shared.settings import FarmSettings, HomeSettings, broker_address, why_invalid
from ltx_client.shared.storage.store import Storage, StorageError
from ltx_models.errors import CheckpointError, ModelError
from ltx_models.families.variants import DEFAULT_VARIANT, find_variant
from ltx_models.faults import machine_fault
from ltx_models.files.model_files import find_files, models_folder
from ltx_worker.commands.doctor import doctor
from ltx_worker.commands.service import as_the_service, install, installed_home, logs, uninstall
from ltx_worker.engine.supervisor import ENGINE
from ltx_worker.machine.home import (
    LOCK,
    PID,
    UnusableHome,
    forget_refusal,
    last_refusal,
    make_home,
    note_refusal,
    problems_in,
)
from ltx_worker.machine.open_files import raise_limit
from ltx_worker.membership.instance_lock import (
    DRAIN_SIGNAL,
    RESUME_SIGNAL,
    AlreadyRunning,
    is_ending,
    presence,
    running_worker,
)
from ltx_worker.service.environment import UnsafeFile, load_environment
from ltx_worker.service.journal import JournalFormatter, is_journal
from ltx_worker.service.launchd import is_job_of_launchd
from ltx_worker.settings import WorkerSettings

__all__ = ["main"]

log = logging.getLogger(__name__)

LOG_BYTES, LOG_FILES = 10 * 2**20, 5
NOOP_ENGINE = "ltx_worker.engine.noop"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Group(Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        except ValidationError as error:  # of the settings
            raise click.UsageError(why_invalid(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ltx-farm")
def main() -> None:
    """Runs this machine as a worker of the farm."""


@main.command(epilog="Example: LTX_BROKER_URL=redis://farm:6379/0 LTX_STORAGE_URL=/mnt/farm ltx-worker start -v pocket")
@click.option(
    "-v", "--variant", default=DEFAULT_VARIANT, show_default=True, help="The model variant that this worker holds."
)
@click.option("--log-level", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
@click.option("--log-file", type=click.Path(path_type=Path), help="Log here instead of to stderr, rotated at 10 MB.")
@click.option("--env-file", type=click.Path(path_type=Path), help="Read LTX_… settings here first; mode 0600.")
@click.option("--no-op", is_flag=True, hidden=True, help="Render nothing: for `ltx bench farm`.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="End when whoever holds our stdin is gone.")
def start(
    variant: str,
    log_level: str,
    log_file: Path | None,
    env_file: Path | None,
    no_op: bool,
    until_stdin_closes: bool,
) -> None:
    """Serves jobs of one variant until stopped (SIGTERM or Ctrl-C: the job in hand goes back to the queue)."""
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
            _unavailable(f"LTX_MODELS_DIR {models} is not there; mount its share, or set it to a folder that is there")
        find_files(find_variant(variant))
    except (ModelError, UnsafeFile) as error:
        download = f"ltx models download {find_variant(variant).name}" if isinstance(error, CheckpointError) else ""
        raise click.UsageError(as_the_service(str(error), download) if download else str(error)) from error
    except (StorageError, UnusableHome) as error:
        _unavailable(str(error))
    except OSError as error:
        _unavailable(_why_no_home(settings.home, error))
    if refused := _why_refused(settings, settings.broker_url):
        _unavailable(refused)
    from ltx_worker.celery.app import run_worker  # Celery takes half a second to import

    if until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    log.info("broker %s, storage %s", broker_address(settings.broker_url), storage.url)
    if too_much := why_too_much(settings.worker_memory_gb):
        log.warning("%s", too_much)
    try:
        with presence(settings.home) as here:
            forget_refusal(settings.home)
            sys.exit(run_worker(settings, settings.broker_url, storage, find_variant(variant).name, here, engine))
    except AlreadyRunning as error:  # it may be about to end
        _unavailable(str(error))
    except OSError as error:
        if machine_fault(error) is None:
            raise
        _unavailable(_why_no_home(settings.home, error))


@main.command(epilog="Example: ltx-worker drain")
def drain() -> None:
    """Has this machine's worker finish the job in hand, take no more, and end."""
    _signal_worker(DRAIN_SIGNAL)
    notice("the worker ends after the job in hand")


@main.command(epilog="Example: ltx-worker resume")
def resume() -> None:
    """Has this machine's worker take jobs again, after it paused itself. What `ltx pause` began, `ltx resume` ends."""
    _signal_worker(RESUME_SIGNAL)
    notice("the worker takes jobs again, unless `ltx pause` keeps it from them")


@main.command(epilog="Example: ltx-worker stop")
def stop() -> None:
    """Has this machine's worker give its job back to the queue and end."""
    _signal_worker(signal.SIGTERM)
    notice("the worker ends; its job, if any, goes back to the queue")


@main.command(epilog="Example: ltx-worker status")
def status() -> None:
    """Tells whether a worker runs on this machine: exit code 0 if so, as while it ends, 1 if not."""
    home, pid = _worker_here()
    state = "ending" if pid and is_ending(home, pid) else "running"
    print_line("not running" if pid is None else f"{state}, process {pid or 'unknown'}")
    if pid is None and (why := last_refusal(home)):
        notice(f"it did not start the last time: {why}")
    if installed_home():
        notice("it is a service of this machine; `ltx-worker logs` shows its log")
    sys.exit(1 if pid is None else 0)


for _command in (install, uninstall, logs, doctor):
    main.add_command(_command)


class _Unavailable(click.ClickException):
    """What may be there later: whoever supervises the worker starts it again."""

    exit_code = os.EX_UNAVAILABLE


def _unavailable(sentence: str) -> NoReturn:
    raise _Unavailable(sentence)


@contextlib.contextmanager
def _refusals_kept(*, logged: bool) -> Iterator[None]:
    """Keep why a worker does not start where `status` and `install` find it, and in the log that its operator reads.

    launchd starts a job again after any exit code but 0, so wrong settings end with that; systemd knows code 2.
    """
    try:
        yield
    except (click.ClickException, ConfigError, ValidationError) as error:
        sentence = why_invalid(error) if isinstance(error, ValidationError) else str(error)
        with contextlib.suppress(ConfigError, ValidationError, OSError):
            home = HomeSettings().home
            if running_worker(home) is None:  # it may be the reason, and none when that one has ended
                note_refusal(home, sentence, is_final=not isinstance(error, _Unavailable))
        if logged and logging.getLogger().hasHandlers():
            log.critical("the worker does not start: %s", sentence)
        if is_job_of_launchd() and not isinstance(error, _Unavailable):
            sys.exit(0)
        raise


def _why_no_home(home: Path, error: OSError) -> str:
    return (
        f"this machine cannot work for the farm now: {error.strerror or error}; its own files are in LTX_HOME {home},"
        " a folder that this user must be able to write, with space left"
    )


def _why_refused(settings: WorkerSettings, broker_url: SecretStr) -> str | None:
    """Return why waiting for this broker would be in vain, or why it is not to be used. One that does not answer may be
    about to start. What else may lose jobs is logged.
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
            log.warning("the broker at %s: %s; to change that, %s", broker.address, finding.text, finding.fix)
    return None


def _signal_worker(number: signal.Signals) -> None:
    home, pid = _worker_here()
    if pid is None:
        raise click.UsageError(f"no worker runs here (LTX_HOME is {home})")
    if not pid:
        _unavailable(f"a worker runs here, and its process id cannot be read in {home / PID}")
    try:
        os.kill(pid, number)
    except PermissionError:
        raise click.UsageError("the worker is another user's; ask it with sudo") from None


def _worker_here() -> tuple[Path, int | None]:
    """The LTX_HOME that is meant, which is the service's where none is set, and the process of its worker."""
    service = None if "LTX_HOME" in os.environ else installed_home()
    home = service or FarmSettings().home
    try:
        return home, running_worker(home)
    except PermissionError:
        raise click.UsageError(f"{home} is another user's; ask its worker with sudo") from None
    except OSError as error:
        found = problems_in(home, (LOCK, PID))
        _unavailable(found[0].text if found else f"LTX_HOME {home} cannot be read: {error.strerror}")


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
        raise click.UsageError(f"there is no log level {level}; there are DEBUG, INFO, WARNING and ERROR") from error


def _end_with_stdin() -> None:
    with contextlib.suppress(OSError, ValueError):  # which is its end as well
        while os.read(sys.stdin.fileno(), 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
