"""Test that `ltx` starts fast: what it imports before a command is used, and the table of its commands."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ltx_client.cli import main
from ltx_client.commands.bench import command as bench
from ltx_client.commands.models import command as models

ROOT = Path(__file__).parents[3]
SLOW = ("redis", "pydantic", "pydantic_core", "pydantic_settings", "rich", "celery", "kombu", "fsspec", "tomlkit")
"""What takes long to import. The client's own modules that need these come with them."""
STANDARD = ("asyncio", "ssl", "subprocess")
"""Of the standard library, what takes long as well."""
GROUPS = {"": main, "bench": bench, "models": models}
ROWS = [(group, name) for group, command in GROUPS.items() for name in command.table]


def started(code, **env):
    """Return the names of all modules that a fresh process has imported once the code has run."""
    code = f"import sys, json\ntry:\n {code}\nfinally: print(*[' '.join(sys.modules)], file=sys.__stderr__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})
    return set(done.stderr.splitlines()[-1].split())


def run(*words):
    return f"sys.argv[:] = ['ltx', *{json.dumps(words)}]; from ltx_client.__main__ import main; main()"


@pytest.mark.parametrize(
    ("code", "env"),
    [
        ("import ltx_client.cli", {}),
        (run("--version"), {}),
        (run("--help"), {}),
        (run("no-such-command"), {}),
        (run(), {"_LTX_COMPLETE": "bash_complete", "COMP_WORDS": "ltx re", "COMP_CWORD": "1"}),
    ],
    ids=["import", "version", "help", "mistyped", "completion"],
)
def test_a_start_without_a_command_imports_nothing_slow(code, env):
    names = started(code, **env)
    assert "ltx_client.cli" in names
    assert {name.split(".")[0] for name in names} & {*SLOW, *STANDARD} == set()
    assert {name for name in names if name.startswith(("ltx_client.commands.", "ltx_client.farm"))} == set()


def test_a_listing_imports_only_what_it_needs():
    """It opens no storage, locks nothing, sends no message and changes no configuration."""
    modules = "ltx_client.commands.jobs.jobs, ltx_client.terminal.arguments.config_changes"
    names = started(f"import ltx_client.cli, {modules}")
    assert "ltx_client.farm.farm" in names
    assert (
        names & {"fsspec", "filelock", "celery", "kombu", "tomlkit", "rich.progress", "ltx_client.local.join"} == set()
    )


@pytest.mark.parametrize(("group", "name"), ROWS)
def test_the_table_says_what_the_command_says(group, name):
    row, command = GROUPS[group].table[name], GROUPS[group].commands[name]
    assert row.short_help == command.get_short_help_str(10**6), f"{row.place} has changed its help: change its row too"
    assert command.name == name
    assert not command.hidden and not command.deprecated


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_help_lists_the_commands_as_click_does(group, width):
    plain = click.Group(group.name, commands=dict(group.commands))
    texts = []
    for each in (group, plain):
        formatter = click.HelpFormatter(width=width)
        each.format_commands(click.Context(each), formatter)
        texts.append(formatter.getvalue())
    assert texts[0] == texts[1] != ""


def test_completion_offers_the_commands_as_click_does():
    plain = click.Group("ltx", commands=dict(main.commands), params=main.params)
    for incomplete in ("", "re", "--", "x"):
        offers = [
            [(item.value, item.type, item.help) for item in each.shell_complete(click.Context(each), incomplete)]
            for each in (main, plain)
        ]
        assert offers[0] == offers[1]


def test_no_command_is_missing_from_the_table():
    folder = ROOT / "ltx_client" / "commands"
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in folder.rglob("*.py")
        if "command()" in (text := path.read_text()) or "def command(" in text
    }
    assert modules == {row.place.removesuffix(":command") for group in GROUPS.values() for row in group.table.values()}


def test_ctrl_c_while_a_command_is_imported_is_one_quiet_end(tmp_path):
    """Whatever the import would make of it: Python 3.11 wraps what `__set_name__` raises."""
    (tmp_path / "late.py").write_text(
        "import time\n"
        "class Slow:\n"
        "    def __set_name__(self, owner, name):\n"
        "        print('importing', flush=True)\n"
        "        time.sleep(60)\n"
        "class Command:\n"
        "    slow = Slow()\n"
    )
    (tmp_path / "program.py").write_text(
        "import click\n"
        "from ltx_client.shared.console.lazy_group import LazyCommand, LazyGroup\n"
        "table = {'late': LazyCommand('late:command', 'Is late.')}\n"
        "main = click.group('main', cls=LazyGroup, table=table)(lambda: 0)\n"
    )
    code = "import sys; sys.argv[1:] = ['late']; from ltx_client.shared.console.entry_point import run; run('program')"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        assert process.wait() == 128 + signal.SIGINT
