"""The `ltx-worker` command."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

import click
from pydantic import ValidationError

from ltx_client.protocol.settings import FarmSettings, broker_address
from ltx_client.protocol.storage import Storage, StorageError
from ltx_models.errors import ModelError
from ltx_models.model_files import find_files
from ltx_models.variants import find_variant
from ltx_worker.presence import DRAIN_SIGNAL, AlreadyRunning, presence, running_worker
from ltx_worker.settings import WorkerSettings

__all__ = ["main"]

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ltx-farm")
def main() -> None:
    """Runs this machine as a worker of the farm."""


@main.command(epilog="Example: LTX_BROKER_URL=redis://farm:6379/0 LTX_STORAGE_URL=/mnt/farm ltx-worker start -v pocket")
@click.option("-v", "--variant", default="pocket", show_default=True, help="The model variant that this worker holds.")
@click.option("--log-level", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True, help="End when whoever holds our stdin is gone.")
def start(variant: str, log_level: str, until_stdin_closes: bool) -> None:
    """Serves jobs of one variant until stopped (SIGTERM or Ctrl-C: the job in hand goes back to the queue)."""
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    try:
        find_files(find_variant(variant))
        settings = WorkerSettings()
        if settings.broker_url is None:
            raise click.UsageError("no broker is set; set LTX_BROKER_URL to redis://[USER:PASSWORD@]HOST:PORT/DB")
        if settings.storage_url is None:
            raise click.UsageError("no storage is set; set LTX_STORAGE_URL to the folder or URL for finished videos")
        storage = Storage(settings.storage_url)
        storage.check()
    except (ModelError, StorageError) as error:
        raise click.UsageError(str(error)) from error
    except ValidationError as error:
        raise click.UsageError(str(error)) from error
    from ltx_worker.app import run_worker  # Celery takes half a second to import

    if until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    log = logging.getLogger(__name__)
    log.info("broker %s, storage %s", broker_address(settings.broker_url), storage.url)
    try:
        with presence(settings.home):
            sys.exit(run_worker(settings, settings.broker_url, storage, find_variant(variant).name))
    except AlreadyRunning as error:
        raise click.UsageError(str(error)) from error


@main.command(epilog="Example: ltx-worker drain")
def drain() -> None:
    """Has this machine's worker finish the job in hand, take no more, and end."""
    _signal_worker(DRAIN_SIGNAL)
    click.echo("the worker ends after the job in hand", err=True)


@main.command(epilog="Example: ltx-worker stop")
def stop() -> None:
    """Has this machine's worker give its job back to the queue and end."""
    _signal_worker(signal.SIGTERM)
    click.echo("the worker ends; its job, if any, goes back to the queue", err=True)


@main.command(epilog="Example: ltx-worker status")
def status() -> None:
    """Tells whether a worker runs on this machine: exit code 0 if so, 1 if not."""
    pid = running_worker(FarmSettings().home)
    click.echo(f"running, process {pid}" if pid else "not running")
    sys.exit(0 if pid else 1)


def _signal_worker(number: signal.Signals) -> None:
    home = FarmSettings().home
    pid = running_worker(home)
    if pid is None:
        raise click.UsageError(f"no worker runs here (LTX_HOME is {home})")
    os.kill(pid, number)


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
