"""Test standard streams that are closed, full, left by their reader, or of few characters: a sentence follows."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.table import Table

from ltx_client.shared.console.entry_point import INTERRUPTED, READER_LEFT
from ltx_client.shared.console.rich_console import Console
from ltx_client.shared.console.stdio import Group, guarded, notice, print_json, print_line
from ltx_client.shared.console.streams import OutputLost, Stream, encodable
from ltx_client.terminal.output import print_table
from ltx_client.terminal.watching.progress import headline

EMOJI = "a \N{CLAPPER BOARD} ball, caf\xe9, 45 °C…"
ENCODINGS = ("utf-8", "latin-1", "ascii", "cp1252", "iso8859-15", "utf-16", "koi8-r")


@click.group(cls=Group)
def program():
    """Return a program like ours."""


@program.command()
def line():
    """Do something and report it."""
    notice("begins")
    print_line(EMOJI, done="the thing is done")


@program.command()
def data():
    print_json({"prompt": EMOJI, "worker": ["\U0001f468\u200d\U0001f469"]})


@program.command()
def table():
    found = Table(box=None)
    found.add_column("PROMPT", no_wrap=True)
    found.add_column("AFTER")
    found.add_row(EMOJI, "Q")
    found.add_row("b" * 40, "Z")
    print_table(found)


@program.command()
def interrupted():
    raise KeyboardInterrupt


class Broken(io.RawIOBase):
    """A stream each of whose writes fails."""

    def __init__(self, error):
        self.error = error

    def writable(self):
        return True

    def write(self, data):
        raise self.error


def run(monkeypatch, command, *, stdout=None, stderr=None):
    """Return the exit code of a command on these streams."""
    if stdout is not None:
        monkeypatch.setattr(sys, "stdout", stdout)
    if stderr is not None:
        monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(SystemExit) as ended:
        program.main([*command.split()], prog_name="program")
    return ended.value.code


def broken(error):
    return io.TextIOWrapper(io.BufferedWriter(Broken(error)), encoding="utf-8")


FULL = OSError(28, "No space left on device")
CLOSED = OSError(9, "Bad file descriptor")
LEFT = BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("command", ["line", "data", "table", "--help", "line --help", "--version-that-is-none"])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FULL, os.EX_IOERR, "Error: stdout cannot be written: No space left on device"),
        (CLOSED, os.EX_IOERR, "Error: stdout cannot be written: it is closed"),
        (LEFT, READER_LEFT, ""),
    ],
    ids=["full", "closed", "left"],
)
def test_what_cannot_be_printed_is_a_failure_with_a_sentence(monkeypatch, capsys, command, error, code, said):
    got = run(monkeypatch, command, stdout=broken(error))
    told = capsys.readouterr().err
    if command.startswith("--version"):  # nothing goes to stdout
        assert got == 2
        return
    assert got == code
    done = "the thing is done" if command == "line" else ""
    assert told.removeprefix("begins\n").strip() == "; ".join(filter(None, (said, done)))


@pytest.mark.parametrize("error", [FULL, CLOSED, LEFT], ids=["full", "closed", "left"])
def test_a_notice_that_nobody_can_read_changes_nothing(monkeypatch, capsys, error):
    assert run(monkeypatch, "line", stderr=broken(error)) == 0
    assert capsys.readouterr().out == f"{EMOJI}\n"
    assert run(monkeypatch, "no-such-command", stderr=broken(error)) == 2
    assert run(monkeypatch, "line", stdout=broken(error), stderr=broken(error)) in (os.EX_IOERR, READER_LEFT)


def test_what_is_lost_stays_lost():
    stream = Stream(broken(FULL), needed=True)
    assert stream.write("") == 0, "click tries what a stream takes"
    for _ in range(2):
        with pytest.raises(OutputLost, match="No space left"):
            stream.write("x" * 100_000)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", ["line", "data", "table"])
def test_every_encoding_takes_every_text(monkeypatch, encoding, command):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    assert run(monkeypatch, command, stdout=stream, stderr=io.TextIOWrapper(io.BytesIO(), encoding=encoding)) == 0
    stream.flush()
    text = written.getvalue().decode(encoding)
    unicode = encoding.startswith("utf")
    if command == "data":
        assert json.loads(text) == {"prompt": EMOJI, "worker": ["\U0001f468\u200d\U0001f469"]}
        assert unicode or text.isascii()
        return
    assert ("\N{CLAPPER BOARD}" if unicode else "\\U0001f3ac") in text
    assert ("\xe9" if encoding in ("latin-1", "cp1252", "iso8859-15") or unicode else "\\xe9") in text
    if command == "table" and not unicode:
        rows = text.splitlines()
        assert rows[1].index("Q") == rows[2].index("Z"), "columns stay in line"


@pytest.mark.parametrize(("text", "shown"), [("ab…", "ab~"), ("━━", "--"), ("\u280b", "?"), ("45 °C", "45 ?C")])
def test_what_is_drawn_keeps_its_width_in_ascii(text, shown):
    assert encodable(text, "ascii", as_long=True).replace(".", "~") == shown
    assert encodable(text, "utf-8", as_long=True) == text


def test_a_bar_is_drawn_with_what_there_is():
    written = io.BytesIO()
    console = Console(file=io.TextIOWrapper(written, encoding="ascii"), force_terminal=True, width=40)
    assert console.options.ascii_only and not Console(file=io.StringIO()).options.ascii_only
    assert headline


def test_ctrl_c_is_quiet(monkeypatch, capsys):
    assert run(monkeypatch, "interrupted") == INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_nothing_is_written_to_what_is_not_a_text(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with guarded(), pytest.raises(TypeError):
        sys.stdout.write(b"x")


def test_json_of_a_client_that_reads_ascii():
    done = CliRunner(charset="ascii").invoke(program, ["data"])
    assert json.loads(done.stdout)["prompt"] == EMOJI


# What only a process of its own shows. `program` is a module of the test, so that little is imported.

PROGRAM = """
import os, sys, time
import click
from ltx_client.shared.console.stdio import Group, print_line
@click.group(cls=Group)
def main(): pass
@main.command()
def one():
    with open("opened", "w") as file:
        print(file.fileno(), file=file)
    print_line("x" * 10, done="it is done")
@main.command()
def read(): print_line(repr(sys.stdin.read()))
if os.environ.get("SLOW"):
    print("importing", flush=True)
    try:
        time.sleep(600)
    except BaseException:
        time.sleep(600)  # as a library that catches what it should not
"""
ROOT = Path(__file__).parents[4]


@pytest.fixture
def shell(tmp_path):
    (tmp_path / "slow_program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}

    running = []

    def start(arguments, redirections="", **variables):
        start = "from ltx_client.shared.console.entry_point import run; run('slow_program')"
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", start, *arguments],
            cwd=tmp_path,
            env={**environment, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


@pytest.mark.parametrize(
    ("command", "redirections", "code", "out", "told"),
    [
        ("one", "<&- >&- 2>&-", os.EX_IOERR, "", ""),
        ("one", "<&- 2>&-", 0, "x" * 10 + "\n", ""),
        ("one", ">&-", os.EX_IOERR, "", "Error: stdout cannot be written: it is closed; it is done\n"),
        ("read", "<&-", 0, "''\n", ""),
    ],
)
def test_closed_streams(shell, tmp_path, command, redirections, code, out, told):
    process = shell([command], redirections)
    assert process.communicate() == (out, told)
    assert process.returncode == code
    if command == "one":
        assert int((tmp_path / "opened").read_text()) > 2, "no file has the number of a stream"


def test_a_reader_that_has_seen_enough(shell):
    process = shell(["one"])
    process.stdout.close()
    assert process.stderr.read() == "it is done\n"
    assert process.wait() == READER_LEFT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_is_still_importing_is_one_quiet_end(shell, number):
    process = shell(["one"], SLOW="1")
    assert process.stdout.readline() == "importing\n"
    began = time.monotonic()
    process.send_signal(number)
    assert process.stderr.read() == ""
    assert process.wait() in (128 + number, -number)
    assert time.monotonic() - began < 100


def test_the_commands_start_that_way():
    for package in ("ltx_client", "ltx_worker"):
        source = (ROOT / package / "__main__.py").read_text()
        assert f'run("{package}.cli")' in source
    scripts = (ROOT / "pyproject.toml").read_text()
    assert 'ltx = "ltx_client.__main__:main"' in scripts and 'ltx-worker = "ltx_worker.__main__:main"' in scripts
    code = (
        "import sys, ltx_client.__main__, ltx_worker.__main__; print({'click', 'pydantic', 'redis'} & set(sys.modules))"
    )
    with contextlib.chdir(ROOT):
        fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout == "set()\n"


@pytest.mark.parametrize(
    ("columns", "width"),
    [("0", 80), ("1", 80), ("19", 80), ("20", 20), ("120", 120), ("-5", 80), ("\xb2", 80), ("9" * 5000, 80)],
)
def test_a_width_on_which_nothing_can_be_read_is_none(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert Console(file=io.StringIO()).width == width
