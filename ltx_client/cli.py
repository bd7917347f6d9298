"""The `ltx` command: its group, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

from typing import Any, NoReturn

import click
import redis
from pydantic import ValidationError

from ltx_client.commands import bench, models
from ltx_client.commands.batches import batch, batches
from ltx_client.commands.farm import config, doctor, gc, stats, storage, up, workers
from ltx_client.commands.jobs import (
    cancel,
    download,
    jobs,
    logs,
    pause,
    priority,
    render,
    resume,
    retry,
    show,
    submit,
    watch,
)
from ltx_client.errors import BrokerUnreachable, FarmError, UsageError
from ltx_client.shared.broker.connection_errors import why_unreachable, why_wrong
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.config import ConfigError
from ltx_client.shared.console.stdio import Group
from ltx_client.shared.settings import FarmSettings, broker_address, why_invalid
from ltx_client.terminal.arguments.completion import complete_farms
from ltx_client.terminal.arguments.config_changes import default_map, use_farm
from ltx_client.terminal.output import notice
from ltx_models.errors import ModelError

__all__ = ["main"]


class FarmGroup(Group):
    """Maps the error trees of `ltx_client.errors` and `ltx_models.errors` to exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a subcommand."""
        try:
            return super().invoke(ctx)
        except FarmError as error:
            _fail(ctx, str(error), error.exit_code)
        except redis.RedisError as error:  # of a command that looks at the broker by itself
            unavailable = is_outage(error)
            sentence = (why_unreachable if unavailable else why_wrong)(error, _address())
            _fail(ctx, sentence, BrokerUnreachable.exit_code if unavailable else FarmError.exit_code)
        except ModelError as error:
            _fail(ctx, str(error), UsageError.exit_code)
        except ConfigError as error:
            _fail(ctx, str(error), UsageError.exit_code)
        except ValidationError as error:  # of the settings: nothing else reaches this far
            _fail(ctx, why_invalid(error), UsageError.exit_code)


def _address() -> str:
    """Return where the broker is, as far as the settings say."""
    url = FarmSettings().broker_url
    return "of this machine's farm" if url is None else broker_address(url)


def _fail(ctx: click.Context, message: str, code: int) -> NoReturn:
    notice(f"Error: {message}")
    ctx.exit(code)


@click.group(cls=FarmGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ltx-farm")
@click.option(
    "--farm",
    metavar="NAME",
    shell_complete=complete_farms,
    help="The farm of that name in the configuration (see ltx config).",
)
@click.pass_context
def main(ctx: click.Context, farm: str | None) -> None:
    """Renders videos from prompts with LTX-Video, on this machine or on a farm of Macs.

    \b
    With no broker set, `ltx render` starts a farm of this machine alone. A farm is named by --farm or by
      LTX_FARM          its name in the configuration file; "local" is this machine alone
      LTX_BROKER_URL    redis://[USER:PASSWORD@]HOST:PORT/DB
      LTX_STORAGE_URL   the folder or URL where finished videos lie
      LTX_NAMESPACE     what the farm's keys begin with ("ltx:")
      LTX_HOME          this machine's own files (~/.ltx-farm)

    \b
    Exit codes: 0 done, 1 the job failed, 2 wrong use, 3 cancelled, 69 broker or storage out of reach,
    74 stdout cannot be written.
    """
    if farm is not None:
        ctx.with_resource(use_farm(farm))
    if ctx.invoked_subcommand != "config":  # which must work while the file does not
        ctx.default_map = default_map()


_RENDERING = (render, submit, batch, watch)
_JOBS = (jobs, batches, show, logs, download, cancel, retry, pause, resume, priority)
for _module in (*_RENDERING, *_JOBS, workers, stats, gc, doctor, bench, models, storage, up, config):
    main.add_command(_module.command)
