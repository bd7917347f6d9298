"""The `ltx` command: its group, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

from typing import Any, NoReturn

import click

from ltx_client.commands import COMMANDS
from ltx_client.errors import BrokerUnreachable, FarmError, UsageError
from ltx_client.shared.console.entry_point import interrupt_ends_at_once
from ltx_client.shared.console.lazy_group import LazyGroup, is_help, preload, raised_by
from ltx_client.shared.console.stdio import notice
from ltx_client.terminal.arguments.completion import complete_farms
from ltx_models.errors import ModelError

__all__ = ["main"]


class FarmGroup(LazyGroup):
    """Maps the error trees of `ltx_client.errors` and `ltx_models.errors` to exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand."""
        try:
            return super().invoke(ctx)
        except FarmError as error:
            _fail(ctx, str(error), error.exit_code)
        except ModelError as error:
            _fail(ctx, str(error), UsageError.exit_code)
        except raised_by("redis", "RedisError") as error:  # of a command that looks at the broker by itself
            _fail_for_the_broker(ctx, error)
        except raised_by("ltx_client.shared.config", "ConfigError") as error:
            _fail(ctx, str(error), UsageError.exit_code)
        except raised_by("pydantic_core", "ValidationError") as error:  # of the settings: nothing else reaches this far
            from ltx_client.shared.settings import why_invalid

            _fail(ctx, why_invalid(error), UsageError.exit_code)


def _fail_for_the_broker(ctx: click.Context, error: Any) -> NoReturn:
    """End with what redis-py's error means. The address is what the settings say of it."""
    from ltx_client.shared.broker.connection_errors import why_unreachable, why_wrong
    from ltx_client.shared.broker.outages import is_outage
    from ltx_client.shared.settings import FarmSettings, broker_address

    url = FarmSettings().broker_url
    address = "of this machine's farm" if url is None else broker_address(url)
    if is_outage(error):
        _fail(ctx, why_unreachable(error, address), BrokerUnreachable.exit_code)
    _fail(ctx, why_wrong(error, address), FarmError.exit_code)


def _fail(ctx: click.Context, message: str, code: int) -> NoReturn:
    notice(f"Error: {message}")
    ctx.exit(code)


@click.group(cls=FarmGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ltx-farm")
@click.option(
    "--farm",
    metavar="NAME",
    shell_complete=complete_farms,
    help="The farm of that name in the configuration (see ltx config).",
)
@click.pass_context
def main(ctx: click.Context, farm: str | None) -> None:
    """Render videos from prompts with LTX-Video, on this machine or on a farm of Macs.

    \b
    With no broker set, `ltx render` starts a farm of this machine alone. A farm is named by --farm or by
      LTX_FARM          its name in the configuration file; "local" is this machine alone
      LTX_BROKER_URL    redis://[USER:PASSWORD@]HOST:PORT/DB
      LTX_STORAGE_URL   the folder or URL of finished videos
      LTX_NAMESPACE     what the farm's keys begin with ("ltx:")
      LTX_HOME          this machine's own files (~/.ltx-farm)

    \b
    Exit codes: 0 done, 1 the job failed, 2 wrong use, 3 cancelled, 69 broker or storage out of reach,
    74 stdout cannot be written.
    """
    if is_help(ctx):  # which is the same for every farm, and shown while the configuration is broken
        return
    with interrupt_ends_at_once():  # pydantic takes long to import
        from ltx_client.terminal.arguments.config_changes import default_map, use_farm
    if farm is not None:
        ctx.with_resource(use_farm(farm))
    if ctx.invoked_subcommand != "config":  # which must work while the file does not
        ctx.default_map = default_map()
    preload(ctx)
