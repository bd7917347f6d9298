"""Run `ltx config`: show and change the configuration file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ltx_client.errors import UsageError
from ltx_client.protocol.redaction import shown_url
from ltx_client.shared.console.stdio import notice, print_json, print_line
from ltx_client.terminal.arguments.options import json_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["command"]


class Key(click.ParamType[str]):
    """The name of a setting. The choices are computed late: pydantic, whose models name them, takes long to import."""

    name = "KEY"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. Raise click.BadParameter for one that is unknown."""
        return self._choice().convert(value, param, ctx)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str | None:
        """Return which names there are."""
        return self._choice().get_missing_message(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so."""
        return self._choice().shell_complete(ctx, param, incomplete)

    def _choice(self) -> click.Choice[str]:
        from ltx_client.terminal.arguments.config_changes import KEYS, SECRET

        return click.Choice([*KEYS, SECRET])


@click.group("config", epilog="Example: ltx config show")
def command() -> None:
    """Show and change the configuration: farms by name, and defaults for their options.

    `ltx --farm NAME COMMAND` uses one of them, as does LTX_FARM; `ltx config set farm NAME` makes one the default. The
    environment (LTX_BROKER_URL and so on) overrides the file, and options override both.
    """


@command.command("path", epilog="Example: ltx config path")
def path_command() -> None:
    """Print where the configuration file is, or would be. LTX_CONFIG names another place.

    LTX_HOME does not: each farm of the file may have a home of its own.
    """
    from ltx_client.shared.config import config_path

    print_line(config_path())


@command.command("show", epilog="Example: ltx --farm studio config show")
@json_option
def show_command(as_json: bool) -> None:
    """Show the values that commands use, and where each comes from. Passwords are not shown."""
    from rich.table import Table

    from ltx_client.shared.config import LOCAL, chosen_farm, config_path, load
    from ltx_client.terminal.arguments.config_changes import effective
    from ltx_client.terminal.output import print_table

    config = load()
    farm = chosen_farm(config)
    rows = effective()
    if as_json:
        values = {row.key: {"value": row.value, "from": row.source} for row in rows}
        print_json({"path": str(config_path()), "farm": farm, "farms": [*config.farms], "values": values})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("SETTING", "VALUE", "FROM"):
        table.add_column(heading, no_wrap=True)
    table.add_row("farm", farm, "")
    for row in rows:
        table.add_row(row.key, row.value, row.source)
    print_table(table)
    others = [name for name in (*config.farms, LOCAL) if name != farm]
    notice(f"the file is {config_path()}; other farms: {', '.join(others) or 'none'}")


@command.command("set", epilog="Example: ltx --farm studio config set storage_url /Volumes/farm")
@click.argument("key", metavar="KEY", type=Key())
@click.argument("value", required=False)
@click.option("--keyring", is_flag=True, help="Store the password in this user's keychain, not in a file.")
def set_command(key: str, value: str | None, keyring: bool) -> None:
    """Set a value of a farm in the configuration file; an empty VALUE removes it.

    The file is that of `ltx config path`, whatever LTX_HOME is. The farm is the one that --farm or LTX_FARM names, or
    the default one. `farm` itself is the default farm's name. `broker_password` is asked for, or read from standard
    input, never taken from the command line.
    """
    from ltx_client.shared.config import config_path, load
    from ltx_client.terminal.arguments.config_changes import SECRET, store_password, write

    farm = os.environ.get("LTX_FARM") or load().farm
    if key != "farm" and not farm:
        raise UsageError(f"name the farm: ltx --farm NAME config set {key} …")
    if key == SECRET:
        if value is not None:
            raise UsageError("a password on a command line is visible to others; leave it out, and it is asked for")
        assert farm is not None
        notice(f"{farm}: the password is stored in {store_password(farm, _asked(), in_keyring=keyring)}")
        return
    if keyring:
        raise UsageError(f"--keyring is for {SECRET}")
    if value is None:
        raise UsageError(f"the value is missing; use ltx config set {key} VALUE")
    write(farm or "", {key: value})
    notice(f"written to {config_path()}")
    if value and shown_url(value) != value:
        notice(f"it contains a password; use a URL without it and ltx config set {SECRET} to hide it")


def _asked() -> str:
    password = click.prompt("Password", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    password = str(password).strip()
    if not password:
        raise UsageError("the password is empty")
    return password
