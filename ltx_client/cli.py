"""The `ltx` command: its group, and the one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

from typing import Any, NoReturn

import click
from pydantic import ValidationError

from ltx_client.commands import cancel, download, jobs, models, render, show, submit, up, watch, workers
from ltx_client.errors import INTERRUPTED, FarmError, UsageError
from ltx_models.errors import ModelError

__all__ = ["main"]


class FarmGroup(click.Group):
    """Maps the error trees of `ltx_client.errors` and `ltx_models.errors` to exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a subcommand."""
        try:
            return super().invoke(ctx)
        except FarmError as error:
            _fail(ctx, str(error), error.exit_code)
        except ModelError as error:
            _fail(ctx, str(error), UsageError.exit_code)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except ValidationError as error:  # of the settings: nothing else reaches this far
            details = "; ".join(f"LTX_{detail['loc'][0]}".upper() + f": {detail['msg']}" for detail in error.errors())
            _fail(ctx, f"the environment is not right: {details}", UsageError.exit_code)


def _fail(ctx: click.Context, message: str, code: int) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    ctx.exit(code)


@click.group(cls=FarmGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ltx-farm")
def main() -> None:
    """Renders videos from prompts with LTX-Video, on this machine or on a farm of Macs.

    \b
    With no broker set, `ltx render` starts a farm of this machine alone. A farm is named by
      LTX_BROKER_URL    redis://[USER:PASSWORD@]HOST:PORT/DB
      LTX_STORAGE_URL   the folder or URL where finished videos lie
      LTX_NAMESPACE     what the farm's keys begin with ("ltx:")
      LTX_HOME          this machine's own files (~/.ltx-farm)

    \b
    Exit codes: 0 done, 1 the job failed, 2 wrong use, 3 cancelled, 69 broker or storage out of reach.
    """


for _module in (render, submit, watch, jobs, show, cancel, download, workers, models, up):
    main.add_command(_module.command)
