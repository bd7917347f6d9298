"""A group of commands whose modules are imported when they are used.

The names and the short helps that `--help` and completion show stand in a table; a test compares it with the commands.
A command's module imports what its options need. Redis, pydantic and rich take a second to import, so they are
imported when the command runs, and its own `--help` is there at once.
"""

from __future__ import annotations

import sys
from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from ltx_client.shared.console.entry_point import interrupt_ends_at_once
from ltx_client.shared.console.stdio import Group

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["LazyCommand", "LazyGroup", "LazySubgroup", "is_help", "preload", "raised_by"]

_HELP = f"{__name__}.help"


class LazyCommand:
    """Where a command is, and what a list says of it.

    place: its module, and the command's name in it, as `package.module:command`.
    short_help: the first sentence of its help.  runs_with: modules that it imports when it runs, and that take long.
    """

    def __init__(self, place: str, short_help: str, runs_with: Sequence[str] = ()) -> None:
        self.place = place
        self.short_help = short_help
        self.runs_with = runs_with

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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the words name, and note whether it is only asked for its help."""
        name, command, rest = super().resolve_command(ctx, args)
        ctx.meta[_HELP] = command is not None and _asks_for_help(command, ctx, rest)
        return name, command, rest


def is_help(ctx: click.Context) -> bool:
    """Return whether the command that is about to run only shows its help."""
    return bool(ctx.meta.get(_HELP))


def preload(ctx: click.Context) -> None:
    """Import what the command runs with. Ctrl-C ends the process meanwhile, as while a command is imported."""
    row = ctx.command.table.get(ctx.invoked_subcommand or "") if isinstance(ctx.command, LazySubgroup) else None
    with interrupt_ends_at_once():
        for module in row.runs_with if row else ():
            import_module(module)


def raised_by(module: str, name: str) -> tuple[type[Any], ...]:
    """Return a class of errors for an `except`; none while its module is not imported: nothing has raised one then."""
    found = getattr(sys.modules.get(module), name, None)
    return () if found is None else (found,)


def _asks_for_help(command: click.Command, parent: click.Context, args: list[str]) -> bool:
    """Return whether a command, or one below it, shows its help for these words."""
    if not args and command.no_args_is_help:
        return True
    ctx = click.Context(command, parent=parent)
    option = command.get_help_option(ctx)
    try:
        given, rest, _ = command.make_parser(ctx).parse_args([*args])
        if option is not None and given.get(option.name or ""):
            return True
        if not isinstance(command, click.Group) or not rest:  # as after `ltx models --`
            return False
        _, command_below, rest = command.resolve_command(ctx, rest)
    except click.UsageError:  # which click itself is about to find
        return False
    return command_below is not None and _asks_for_help(command_below, ctx, rest)
