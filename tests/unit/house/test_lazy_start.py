"""Test that `ltx` and `ltx-worker` start fast: their imports before a command is used, the table of commands."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ltx_client.cli import main
from ltx_client.commands.bench import command as bench
from ltx_client.commands.models import command as models
from ltx_worker.cli import main as worker

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


def run(*words, package="ltx_client"):
    return f"sys.argv[:] = ['ltx', *{json.dumps(words)}]; from {package}.__main__ import main; main()"


def slow_ones(names):
    return {name.split(".")[0] for name in names} & {*SLOW, *STANDARD}


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
    assert slow_ones(names) == set()
    assert {name for name in names if name.startswith(("ltx_client.commands.", "ltx_client.farm"))} == set()


def test_a_help_imports_nothing_slow():
    """Whichever command's: none of their modules does, and none is imported with another one's help."""
    modules = sorted({row.place.partition(":")[0] for group in GROUPS.values() for row in group.table.values()})
    assert slow_ones(started(f"import {', '.join(modules)}")) == set()
    names = started(run("models", "download", "--help"))
    assert slow_ones(names) == set()
    assert {name for name in names if name.startswith("ltx_client.commands.")} == {
        "ltx_client.commands.models",
        "ltx_client.commands.models.download",
    }


@pytest.mark.parametrize(
    "words", ["--version", "--help", "no-such-command", *(f"{name} --help" for name in sorted(worker.commands))]
)
def test_a_start_of_the_worker_without_a_command_imports_nothing_slow(words):
    names = started(run(*words.split(), package="ltx_worker"))
    assert "ltx_worker.cli" in names
    assert slow_ones(names) == set()
    assert {name for name in names if name.startswith(("ltx_worker.commands.", "ltx_client.farm"))} == set()


@pytest.fixture(autouse=True)
def _help_options_of_the_program(monkeypatch):
    """Forget the options that click has cached: other tests run a command without its group, which names -h."""
    for group, name in ROWS:
        monkeypatch.setattr(GROUPS[group].commands[name], "_help_option", None)


@pytest.fixture
def broken_config(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    path.write_text("farm = [")
    monkeypatch.setenv("LTX_CONFIG", str(path))


@pytest.mark.parametrize("group", GROUPS)
def test_a_help_is_shown_while_the_configuration_is_broken(broken_config, group):
    for name in GROUPS[group].table:
        for words in ([name, "--help"], ["--farm", "no-such-farm", *group.split(), name, "-h"]):
            done = CliRunner().invoke(main, [*group.split(), *words] if words[0] == name else words)
            assert (done.exit_code, done.stdout[:6]) == (0, "Usage:"), done.output


@pytest.mark.parametrize(
    "words",
    [
        ["models"],
        ["bench"],
        ["config", "-h"],
        ["config", "set", "--help"],
        ["config", "set", "farm", "-h"],
        ["render", "-v", "pocket", "-h"],
    ],
    ids=" ".join,
)
def test_what_shows_a_help_as_well(broken_config, words):
    done = CliRunner().invoke(main, words)
    assert "Usage: main" in done.output
    assert "config.toml" not in done.output


@pytest.mark.parametrize(
    "words", [["render", "--", "--help"], ["render", "--negative-prompt", "-h", "x"], ["jobs", "--batch", "--help"]]
)
def test_words_that_only_look_like_a_wish_for_help(broken_config, words):
    """They are a prompt, or an option's value."""
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "config.toml, line 1" in done.stderr


@pytest.mark.parametrize("group", ["models", "config", "storage", "bench"])
def test_a_group_without_a_command_says_so(group):
    done = CliRunner().invoke(main, [group, "--"])
    assert (done.exit_code, done.exception.__class__) == (2, SystemExit)
    assert "Missing command" in done.output


def test_a_command_runs_with_what_it_imports():
    """What is named to be imported first, while Ctrl-C is one quiet end, is what the command itself imports."""
    for name, row in main.table.items():
        text = Path(importlib.import_module(row.place.partition(":")[0]).__file__).read_text()
        assert [module for module in row.runs_with if f"    from {module} import" not in text] == [], name


LISTING = """
import contextlib
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.jobs.views import JobView
from ltx_client.protocol.state import Snapshot, Status
from ltx_models.request import GenerationRequest
job = prepare(GenerationRequest(prompt="a red ball"), variant="pocket").job
class Answers:
    jobs = lambda self, limit: [JobView(job, 1.0, Snapshot(status=Status.DONE), False, False)]
    pauses = workers = lambda self: []
    is_embedded = False
    now = lambda self: 2.0
Farm.connect = lambda *_, **__: contextlib.nullcontext(Answers())
"""
"""A farm that has a job, and whose server takes no time."""


@pytest.mark.parametrize(("option", "lays_out"), [("--json", False), ("--mine", True)])
def test_a_listing_imports_only_what_it_needs(option, lays_out):
    """It opens no storage, locks nothing, sends no message and changes no configuration; JSON is not laid out."""
    names = started("\n ".join([*LISTING.splitlines(), run("jobs", option)]))
    assert {"ltx_client.farm.farm", "ltx_client.terminal.output"} <= names
    assert ("rich.table" in names) == ("rich" in names) == lays_out
    unused = {"pydantic_settings", "fsspec", "filelock", "celery", "kombu", "tomlkit", "rich.progress", "httpx"}
    assert names & {*unused, "ltx_client.local.join", "ltx_client.terminal.watching.progress"} == set()


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
