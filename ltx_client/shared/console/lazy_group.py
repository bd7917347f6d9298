"""A group of commands whose modules are imported when they are used.

A command's module imports Redis, pydantic and rich, which takes a second. The names and the short helps that `--help`
and completion show stand in a table instead; a test compares it with the commands.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from ltx_client.shared.console.entry_point import interrupt_ends_at_once
from ltx_client.shared.console.stdio import Group

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["LazyCommand", "LazyGroup", "LazySubgroup"]


class LazyCommand:
    """Where a command is, and what a list says of it.

    place: its module, and the command's name in it, as `package.module:command`.
    short_help: the first sentence of its help.
    """

    def __init__(self, place: str, short_help: str) -> None:
        self.place = place
        self.short_help = short_help

    def load(self) -> click.Command:
        """Import the command. Ctrl-C ends the process meanwhile: an interrupted import may raise anything."""
        module, _, name = self.place.partition(":")
        with interrupt_ends_at_once():
            command: click.Command = getattr(import_module(module), name)
        return command


class _Commands(UserDict[str, Any]):
    """Commands by name, each imported when it is first read."""

    def __getitem__(self, name: str) -> click.Command:
        command = self.data[name]
        if isinstance(command, LazyCommand):
            command = self.data[name] = command.load()
        assert isinstance(command, click.Command)
        return command


class LazySubgroup(click.Group):
    """A group within another one.  table: its commands by name."""

    def __init__(self, name: str | None = None, *, table: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(name, _Commands(table), **kwargs)
        self.table = table

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands into a help, and import none."""
        click.Group(commands=dict(self._listed())).format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what a shell offers in place of a command or option, and import no command."""
        from click.shell_completion import CompletionItem

        offers = [
            CompletionItem(name, help=command.get_short_help_str())
            for name, command in self._listed()
            if name.startswith(incomplete)
        ]
        return offers + click.Command.shell_complete(self, ctx, incomplete)

    def _listed(self) -> Iterator[tuple[str, click.Command]]:
        """Yield, in alphabetical order, a stand-in for each command that has its name and short help alone."""
        for name, command in sorted(self.table.items()):
            yield name, click.Command(name, help=command.short_help)


class LazyGroup(Group, LazySubgroup):
    """A program's outermost group, of such commands."""
