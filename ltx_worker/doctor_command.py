"""`ltx-worker doctor`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from ltx_client.protocol.report import report
from ltx_models.errors import ModelError
from ltx_models.variants import find_variant
from ltx_worker.service.commands import installed_home
from ltx_worker.service.environment import ENVIRONMENT, UnsafeFile, load_environment
from ltx_worker.settings import WorkerSettings

__all__ = ["doctor"]


@click.command(epilog="Example: sudo ltx-worker doctor --variant distilled-fp8")
@click.option("-v", "--variant", default="pocket", show_default=True, help="The model variant that is to be held.")
@click.option("--quick", is_flag=True, help="Do not read the model's files through.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option("--env-file", type=click.Path(path_type=Path), help="Settings to read first.  [default: the service's]")
def doctor(variant: str, quick: bool, as_json: bool, env_file: Path | None) -> None:
    """Looks at this machine as a worker, at the broker and the storage, and says what is wrong and what mends it.

    Exit code 1 when something has failed; a warning is no failure.
    """
    from ltx_worker.doctor import worker_checks  # the hub's client takes a while to import

    home = installed_home()
    try:
        if env_file or (home and "LTX_BROKER_URL" not in os.environ):
            load_environment(env_file or ENVIRONMENT)
            if home and not env_file:
                os.environ.setdefault("LTX_HOME", str(home))
        checks = worker_checks(WorkerSettings(), find_variant(variant), quick=quick)
    except ValidationError:
        raise
    except (UnsafeFile, ModelError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    sys.exit(report(checks, as_json=as_json))
