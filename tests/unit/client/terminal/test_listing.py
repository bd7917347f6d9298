"""Test listings of jobs with any prompt: only the prompt is shortened, at any width and in a pipe."""

import dataclasses
import io
import re
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ltx_client.cli import main
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.forecast import Place
from ltx_client.farm.jobs.views import Update
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.console import rich_console
from ltx_client.shared.console.rich_console import Console
from ltx_client.terminal import listing
from ltx_client.terminal.listing import Column, Listing, print_table
from ltx_client.terminal.watching.live_table import LiveDisplay
from ltx_client.terminal.watching.progress import display

PROMPTS = {
    "long": "a red ball rolls to the right " * 33,
    "one word": "a" * 1000,
    "wide": "赤い球が右へ転がる" * 60,
    "emoji": "🔴👩‍👩‍👧🇩🇪" * 60,
    "lines": "a red ball\nrolls\r\nto the right\u2028or\x1b[31m not\t" * 20,
    "short": "a red ball",
}
IDS = {f"{number:08x}-0000-7000-8000-00000000{number:04x}": prompt for number, prompt in enumerate(PROMPTS.values(), 1)}
STATES = ["done", "failed", "cancelled", "running", "queued", "queued"]
WORKER, LONG_WORKER = "mac-3", "Annas-Mac-Studio-im-Erdgeschoss-links.local"
WIDTHS = [40, 80, 200]
BATCH = "0199c0de-0000-7000-8000-00000000beef"
FILE = "shots for the second act, as of Monday.csv"


@pytest.fixture(params=[WORKER, LONG_WORKER], ids=["", "long worker"])
def worker_name(request):
    return request.param


@pytest.fixture
def farm(redis_client, names, client_ledger, ledger, make_job, monkeypatch, worker_name):
    """A farm with a job of each prompt, in each state, all of one batch, and two workers."""
    farm = Farm.over(redis_client, SecretStr("redis://localhost"), names, None)
    url = farm._operations.broker_url
    monkeypatch.setattr(Farm, "connect", lambda *_, **__: Farm.over(redis_client, url, names, None))
    monkeypatch.setattr(
        "ltx_client.terminal.notices.wait_reasons.tell_who_waits", lambda *_: None
    )  # nobody serves these
    farm._run(farm._operations._batches.note(SimpleNamespace(id=BATCH, name=FILE, jobs=[(make_job(), None)])))
    for item, (job_id, prompt) in enumerate(IDS.items(), 1):
        request = dataclasses.replace(make_job().request, prompt=re.sub("[\x1b]", "", prompt))
        job = make_job(id=job_id).model_copy(update={"request": request})
        client_ledger.submit(job, Relations(batch=BATCH, item=item))
    done, failed, cancelled, running, *_ = IDS
    attempt = ledger.claim(done, "w", worker_name)
    ledger.commit(attempt, events.Done(result=Result(video="a.mp4", sidecar="a.json", size=1, sha256="0f" * 32)))
    ledger.commit(ledger.claim(failed, "w", worker_name), events.Failed(error="no " * 200))
    farm.cancel(cancelled)
    ledger.emit(ledger.claim(running, "w", worker_name), events.Stepped(step=123, steps=456, seconds=0.1))
    yield farm
    farm.close()


def run(monkeypatch, width, *arguments):
    monkeypatch.setattr(listing, "terminal_width", lambda _: width)
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def row_of(job_id, lines):
    (row,) = (line for line in lines if line.startswith(job_id[-12:]))
    return row


@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_terminal_a_jobs_prompt_gives_way_and_nothing_else(farm, monkeypatch, width, worker_name):
    done = run(monkeypatch, width, "jobs")
    header, *lines = done.stdout.splitlines()
    assert len(lines) == len(IDS)
    assert max(map(cell_len, [header, *lines])) <= width
    left_out = done.stderr.partition(": ")[2].partition(";")[0].split(", ") if done.stderr else []
    assert set(header.split()) | set(left_out) == {"JOB", "STATUS", "STEPS", "VARIANT", "AGE", "WORKER", "PROMPT"}
    assert header.split()[:2] == ["JOB", "STATUS"] and header.endswith("PROMPT")
    for (job_id, prompt), state in zip(IDS.items(), STATES, strict=True):
        row = row_of(job_id, lines)
        assert row.split()[:2] == [job_id[-12:], state]
        assert ("123/456" in row) == (state == "running" and "STEPS" in header)
        assert (worker_name in row) == (state in ("done", "failed", "running") and "WORKER" in header)
        assert row.endswith(("…", prompt))
    if width == 40:
        assert left_out
        assert done.stderr.startswith("not shown in 40 columns: ")
    if width == 200 or (worker_name == WORKER and width == 80):
        assert done.stderr == ""


def test_in_a_pipe_a_job_is_a_line_and_nothing_is_shortened(farm, monkeypatch, worker_name):
    done = run(monkeypatch, None, "jobs")
    header, *lines = done.stdout.splitlines()
    assert (done.stderr, len(lines)) == ("", len(IDS))
    for (job_id, prompt), state in zip(IDS.items(), STATES, strict=True):
        row = row_of(job_id, lines)
        assert state in row and "pocket" in row and row == row.rstrip()
        assert row.endswith(re.sub("[\n\r\t\u2028]", " ", prompt.replace("\x1b", "")).rstrip())
        assert (worker_name in row) == (state in ("done", "failed", "running"))
    places = {cell_len(line[: line.index("pocket")]) for line in lines}
    assert places == {header.index("VARIANT")}


def test_standard_output_that_is_no_terminal_has_no_width(farm, monkeypatch):
    for variable, value in {"COLUMNS": "40", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(variable, value)
    plain = re.sub("\x1b\\[[0-9;]*m", "", CliRunner().invoke(main, ["jobs"]).stdout)
    assert PROMPTS["long"].strip() in plain
    assert len(plain.splitlines()) == 1 + len(IDS)


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_everything_about_a_job_with_its_ids_whole(farm, monkeypatch, width, worker_name):
    for job_id, prompt in IDS.items():
        lines = run(monkeypatch, width, "show", job_id).stdout.splitlines()
        assert lines[0].split() == ["job", job_id]
        shown = {line[:18].strip(): line for line in lines}
        assert BATCH in shown["batch"] if width is None or width > 60 else any(BATCH in line for line in lines)
        if width is None:
            assert shown["prompt"].endswith(re.sub("[\n\r\t\u2028]", " ", prompt.replace("\x1b", "")).rstrip())
    done = run(monkeypatch, width, "show", next(iter(IDS))).stdout
    assert "0f" * 32 in done and worker_name in done
    wrapped = run(monkeypatch, width, "show", list(IDS)[1]).stdout
    assert wrapped.count("no ") + wrapped.count("no\n") >= 200
    longest = max(map(len, (line for line in wrapped.splitlines() if " no no" in line)))
    assert longest <= (width or 10**6)


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_batches_and_stats_keep_ids_states_and_numbers(farm, monkeypatch, width, worker_name):
    batches = run(monkeypatch, width, "batches").stdout
    assert BATCH[-12:] in batches.splitlines()[1]
    counts = ["2 queued,", "1 running,", "1 done,", "1 failed,", "1 cancelled"]
    assert " ".join(counts) in batches.splitlines()[1]
    assert (FILE in batches) == (width in (200, None))
    assert max(map(len, batches.splitlines())) <= max(67, width or 10**6)
    header, *rows = run(monkeypatch, width, "stats").stdout.splitlines()
    assert header.split()[:3] == ["VARIANT", "WORKER", "DONE"]
    assert len(rows) == 2 and all(row.startswith("pocket") for row in rows)
    assert worker_name in rows[1]


def workers(*names):
    fields = {
        "memory": 64 * 10**9,
        "budget_gb": 48,
        "variant": "distilled-fp8",
        "version": "1",
        "chip": "Apple M2 Ultra",
    }
    times = {"started_at": 1.0, "seen_at": 1.0, "temperature": 48.0}
    return [WorkerInfo(id=name, name=name, state="rendering", job=next(iter(IDS)), **fields, **times) for name in names]


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_workers_keep_their_names_states_and_jobs(farm, monkeypatch, width):
    monkeypatch.setattr(Farm, "workers", lambda _: workers(WORKER, "studio"))
    header, *rows = run(monkeypatch, width, "workers").stdout.splitlines()
    for name, row in zip((WORKER, "studio"), rows, strict=True):
        assert row.split()[:3] == [name, "rendering", next(iter(IDS))[-12:]]
        assert "…" not in row
    if width != 40:
        assert "distilled-fp8" in rows[0] and "48 GB" in rows[0]
    assert ("Apple M2 Ultra" in rows[0]) == (width in (200, None)) == ("CHIP" in header)


def test_what_cannot_be_left_out_is_wrapped_by_the_terminal_not_cut(farm, monkeypatch):
    monkeypatch.setattr(Farm, "workers", lambda _: workers(LONG_WORKER, "b"))
    lines = run(monkeypatch, 40, "workers").stdout.splitlines()
    assert lines[1] == f"{LONG_WORKER}  rendering"
    assert lines[2].split() == ["b", "rendering"]


@pytest.mark.parametrize("width", WIDTHS)
def test_while_it_is_watched(farm, width, worker_name):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=40, color_system=None)
    screen = LiveDisplay(farm, console)
    for view in farm.jobs():
        screen.show(Update(None, view.snapshot, view))
    screen._workers = workers(WORKER)
    screen._places = {list(IDS)[4]: Place(3, 500.0, 10.0)}
    with console.capture() as capture:
        console.print(screen.table())
    lines = capture.get().splitlines()
    for job_id, state in zip(IDS, STATES, strict=True):
        assert row_of(job_id, lines).split()[:2] == [job_id[-12:], state]
    assert max(map(cell_len, lines)) <= width
    (row,) = (line for line in lines if line.startswith(WORKER))
    assert row.split()[:2] == [WORKER, "rendering"]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_bar_shows_its_id_and_steps_whole(farm, monkeypatch, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr("ltx_client.terminal.watching.progress.Console", lambda **_: console)
    view = farm.view(list(IDS)[3])
    text, denoise, *rest = view.snapshot.stages
    stages = (text, denoise.model_copy(update={"seconds": 100.0}), *rest)
    state = view.snapshot.model_copy(update={"stages": stages, "message": "loading what takes a while " * 9})
    with display(with_ids=True) as shown:
        shown.show(Update(None, state, view))
    drawn = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).replace("\r", "\n").splitlines()
    (line,) = {line.strip() for line in drawn if "step" in line}
    assert re.match(f"(?:. )?{view.job.id[-12:]}  load.*… .*step 123/456(, 9 h 15 min left)?$", line)
    assert ("9 h 15 min left" in line) == (width > 40)
    assert cell_len(line) <= width


def test_any_table_is_printed_whole(monkeypatch, capsys):
    table = Table("A", "B", box=None, pad_edge=False)
    table.add_row("x" * 50, "y" * 50)
    for width in (40, None):
        monkeypatch.setattr(listing, "terminal_width", lambda _, width=width: width)
        print_table(table)
        assert capsys.readouterr().out.splitlines()[1] == "x" * 50 + "  " + "y" * 50


def test_of_a_fact_the_name_alone_is_dim(monkeypatch, capsys):
    monkeypatch.setattr(
        rich_console, "Console", lambda **_: Console(force_terminal=True, color_system="standard", width=60)
    )
    listing.print_facts({"job": "12", "none": ""}, {"prompt": "a b"})
    assert capsys.readouterr().out == "\x1b[2mjob     \x1b[0m12\n\n\x1b[2mprompt  \x1b[0ma b\n"


def test_columns_are_left_out_by_use_and_empty_ones_first(monkeypatch):
    listed = Listing(
        Column("ID"),
        Column("A", leave_out=2),
        Column("B", leave_out=1),
        Column("C", leave_out=3),
        Column("T", is_free=True),
    )
    listed.add_row("1234", "aaaa", "", Text("cccc"), "text " * 9)
    assert [listed.left_out(width) for width in (100, 26, 25, 20, 5)] == [[], [], ["C"], ["C"], ["A", "C"]]


@pytest.mark.parametrize("command", ["jobs", "batches", "stats"])
def test_a_limit_that_no_broker_counts_to_is_refused(farm, command):
    done = CliRunner().invoke(main, [command, "--limit", "9" * 20])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is not in the range 1<=x<=1000000000" in done.stderr
