"""The `ltx-worker` command."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

import click
from pydantic import ValidationError

from ltx_client.protocol.settings import broker_address
from ltx_client.protocol.storage import Storage, StorageError
from ltx_models.errors import UnknownVariant
from ltx_models.variants import find_variant
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
        find_variant(variant)
        settings = WorkerSettings()
        if settings.broker_url is None:
            raise click.UsageError("no broker is set; set LTX_BROKER_URL to redis://[USER:PASSWORD@]HOST:PORT/DB")
        if settings.storage_url is None:
            raise click.UsageError("no storage is set; set LTX_STORAGE_URL to the folder or URL for finished videos")
        storage = Storage(settings.storage_url)
        storage.check()
    except (UnknownVariant, StorageError) as error:
        raise click.UsageError(str(error)) from error
    except ValidationError as error:
        raise click.UsageError(str(error)) from error
    from ltx_worker.app import run_worker  # Celery takes half a second to import

    if until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    logging.getLogger(__name__).info("broker %s, storage %s", broker_address(settings.broker_url), storage.url)
    sys.exit(run_worker(settings, settings.broker_url, storage, variant))


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
