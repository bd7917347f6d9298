"""Test where commands write: never over what is no file, never half a file, and refused before a render."""

import errno
import os
import pty
import re
import resource
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ltx_client.errors import UsageError
from ltx_client.farm.outputs.paths import waits_for_reader
from ltx_client.farm.render import Render
from ltx_models.files import output_files
from ltx_models.files.output_files import writing
from tests.stored_farm import FRAMES, SMALL, VIDEO, StoredFarm

PROMPT = "a red ball rolls to the right"
LONG = "x" * 252 + ".mp4"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return StoredFarm(tmp_path_factory.mktemp("farm") / "storage")


@pytest.fixture
def farm(stored, monkeypatch, tmp_path):
    """A farm whose commands run in a folder of the test's own."""
    stored.sent.clear()
    monkeypatch.chdir(tmp_path)
    return stored.installed(monkeypatch)


@pytest.fixture(scope="module")
def job(stored):
    """Return the id of a job that is done."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        done = stored.installed(monkeypatch).ltx("submit", PROMPT, *SMALL, "--seed", 7, "--id", "one-3fa85f64a1b2")
        assert done.exit_code == 0, done.output
    return "3fa85f64a1b2"


def render(farm, output, *more):
    return farm.ltx("render", PROMPT, *SMALL, "--seed", "7", "-o", output, *more)


def tree(folder):
    """Return what is in a folder: for each name its kind, and a file's content."""
    return {
        str(path.relative_to(folder)): (
            path.readlink()
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else stat.S_IFMT(path.lstat().st_mode)
        )
        for path in folder.rglob("*")
    }


def device(path, minor):
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        path.open("wb").close()
    except OSError:
        pytest.skip("only root makes devices, on Linux")
    return path


def drained(path, into):
    """Read a named pipe, in a thread."""
    reader = threading.Thread(target=lambda: into.append(path.read_bytes()))
    reader.start()
    return reader


def said(done):
    """Return the one sentence of a refusal."""
    assert "Traceback" not in done.output
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


REFUSED = {
    "ball.gif": "the name ball.gif is invalid: it ends in .gif, but an MP4 is written there; use ball.mp4",
    "ball.MOV": "the name ball.MOV is invalid: it ends in .MOV, but an MP4 is written there; use ball.mp4",
    "a.b.mp3": "use a.b.mp4",
    "a.mp4.png": "use a.mp4.mp4",
    "a.264x": "ends in .264x",
    "a.3gp": "ends in .3gp",
    "a.webm ": "ends in .webm",
    "": "the output has an empty name",
    "no/a.mp4": "the folder no does not exist, so a.mp4 cannot be written there",
    "~/a.mp4": "the shell replaces ~ only where it is not quoted",
    "new/": "the folder new does not exist",
    "new/.": "the folder new does not exist",
    "new/..": "the folder new/.. does not exist",
    "file/a.mp4": "cannot write file/a.mp4: Not a directory",
    "file/": "the folder file does not exist",
    LONG: f"cannot write {LONG}: File name too long",
    "é" * 126 + ".mp4": "File name too long",
    "sub/" * 1100 + "a.mp4": "File name too long",
    "loop": "cannot write loop: Too many levels of symbolic links",
    "loop/a.mp4": "Too many levels of symbolic links",
    "socket": "socket is a socket, in which nothing can be written; name a file, a pipe or a device",
    "nowhere.mp4": "the folder no does not exist, so nowhere.mp4 cannot be written there",
    "a\0b.mp4": "the name is invalid",
    "/dev/stderr": "/dev/stderr is where messages go",
    "/dev/fd/2": "is where messages go",
    "/dev/fd/987": "/dev/fd/987 is closed",
    "/dev/fd/999999999": "is closed",
    "to-stderr": "is where messages go",
    "{colour}.mp4": "{colour} is not a field; use {prompt}, {seed}, {id}, ",
    "{}.mp4": "{} is not a field",
    "{0}.mp4": "{0} is not a field",
    "{prompt.__class__}.mp4": "{prompt.__class__} is not a field",
    "{prompt[0]}.mp4": "{prompt[0]} is not a field",
    "{prompt!r}.mp4": "{prompt!r} is not a field",
    "{seed:9999999d}.mp4": "{seed:9999999d} is invalid; use formats",
    "{seed:{width}}.mp4": "is invalid; use formats",
    "{seed:.4}.mp4": "{seed:.4}, which is invalid for 7",
    "{prompt:d}.mp4": "{prompt:d}",
    "{seed.mp4": "a brace of the name itself is written {{ or }}",
    "seed}.mp4": "a brace of the name itself is written {{ or }}",
    "{index}.mp4": "which this job does not have; only videos of a batch have {index}",
    "{seed}.gif": "the output {seed}.gif is invalid: it does not name an MP4; end it with .mp4",
    "{seed}/": "is invalid: it does not name an MP4",
    "{seed}": "is invalid: it does not name an MP4",
    "no/{seed}.mp4": "the folder no does not exist",
    "file/{seed}.mp4": "the folder file does not exist",
    "x" * 256 + "{seed}.mp4": "File name too long",
}


def odd_things(folder):
    (folder / "file").write_bytes(b"mine")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere.mp4").symlink_to("no/where.mp4")
    (folder / "to-stderr").symlink_to("/dev/stderr")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")


@pytest.mark.parametrize("output", REFUSED, ids=lambda output: ascii(output[:30]))
def test_what_cannot_be_written_is_refused_before_anything_is_queued(farm, tmp_path, output):
    odd_things(tmp_path)
    before = tree(tmp_path)
    assert REFUSED[output] in said(render(farm, output))
    assert farm.sent == []
    assert tree(tmp_path) == before


@pytest.mark.parametrize("output", sorted(set(REFUSED) - {"{index}.mp4"}), ids=lambda output: ascii(output[:30]))
def test_a_download_is_refused_as_a_render_is(farm, job, tmp_path, output):
    odd_things(tmp_path)
    before = tree(tmp_path)
    assert said(farm.ltx("download", job, "-o", output)) == said(render(farm, output))
    assert tree(tmp_path) == before


def test_what_this_user_may_not_write_is_refused(farm, tmp_path, monkeypatch):
    (tmp_path / "mine.mp4").write_bytes(b"keep")
    (tmp_path / "closed").mkdir()
    allowed, closed = os.access, ("mine.mp4", "closed")  # root would be allowed everything
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name not in closed and allowed(path, mode))
    assert "write-protected" in said(render(farm, "mine.mp4"))
    assert "this user cannot write into the folder closed" in said(render(farm, "closed/a.mp4"))


TAKEN = {
    "ball.mp4": "ball.mp4",
    "ball.M4V": "ball.M4V",
    "ball": "ball",
    "ball-v1.5": "ball-v1.5",
    ".mp4": ".mp4",
    "a{{b}}.mp4": "a{b}.mp4",
    "new\nline.mp4": "new\nline.mp4",
    "caf\udce9.mp4": "caf\udce9.mp4",
    "\U0001f600.mp4": "\U0001f600.mp4",
    "-x.mp4": "-x.mp4",
    "x" * 251 + ".mp4": "x" * 251 + ".mp4",
    "é" * 125 + "x.mp4": "é" * 125 + "x.mp4",
    "folder": "folder/ltx-{id}.mp4",
    "folder/": "folder/ltx-{id}.mp4",
    "folder/.": "folder/ltx-{id}.mp4",
    ".": "ltx-{id}.mp4",
    "to-folder": "folder/ltx-{id}.mp4",
    "folder/../a.mp4": "a.mp4",
    "to-file.mp4": "folder/file.mp4",
    "to-link.mp4": "folder/file.mp4",
    "dangling.mp4": "folder/new.mp4",
    "{seed}.mp4": "7.mp4",
    "folder/{seed:04}-{prompt:.10}.mp4": "folder/0007-a red ball.mp4",
    "{variant}/{width}x{height}/{frames}-{fps}-{steps}.mp4": "pocket/64x64/9-12-2.mp4",
    "{{{seed}}}.mp4": "{7}.mp4",
    "{prompt}.mp4": f"{PROMPT}.mp4",
    "{id}.mp4": "{id}.mp4",
    "./{seed}.MP4": "7.MP4",
    "{prompt:.0}.mp4": "_.mp4",
    ".{prompt:.0}/.{prompt:.1}.mp4": "._/.a.mp4",
}


@pytest.mark.parametrize("output", TAKEN, ids=lambda output: ascii(output[:30]))
def test_a_file_is_written_where_it_was_named_and_nowhere_else(farm, tmp_path, output):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file.mp4").write_bytes(b"the one before")
    for link, target in (
        ("to-folder", "folder"),
        ("to-file.mp4", "folder/file.mp4"),
        ("to-link.mp4", tmp_path / "to-file.mp4"),
        ("dangling.mp4", "folder/new.mp4"),
    ):
        (tmp_path / link).symlink_to(target)
    before = tree(tmp_path)
    done = render(farm, output)
    assert done.exit_code == 0, done.output
    (job_id,) = farm.sent
    name = TAKEN[output].replace("{id}", job_id.rsplit("-")[-1])
    after = tree(tmp_path)
    assert after.pop(name) == VIDEO
    before.pop(name, None)
    assert {path: what for path, what in after.items() if what != stat.S_IFDIR or path == "folder"} == before
    assert done.stdout.splitlines()[-1]


def test_what_is_replaced_keeps_its_permissions_and_a_new_file_has_the_usual_ones(farm, tmp_path):
    (tmp_path / "old.mp4").write_bytes(b"before")
    (tmp_path / "old.mp4").chmod(0o640)
    os.link(tmp_path / "old.mp4", tmp_path / "other-name.mp4")
    umask = os.umask(0o027)
    try:
        assert render(farm, "old.mp4").exit_code == render(farm, "new.mp4").exit_code == 0
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "old.mp4").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "new.mp4").stat().st_mode) == 0o640
    assert (tmp_path / "other-name.mp4").read_bytes() == b"before"


@pytest.mark.parametrize("through", ["itself", "a link"])
def test_a_named_pipe_is_written_to_and_stays(farm, tmp_path, through):
    os.mkfifo(tmp_path / "pipe.gif")
    output = "pipe.gif"
    if through == "a link":
        (tmp_path / "link.mov").symlink_to("pipe.gif")
        output = "link.mov"
    got = []
    reader = drained(tmp_path / "pipe.gif", got)
    done = render(farm, output)
    reader.join(60)
    assert done.exit_code == 0, done.output
    assert got == [VIDEO]
    assert f"{output} is a named pipe: it is written to when something reads it" in done.stderr
    assert stat.S_ISFIFO((tmp_path / "pipe.gif").stat().st_mode)


def test_a_reader_that_leaves_is_no_traceback(farm, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: os.close(os.open("pipe", os.O_RDONLY)))
    reader.start()
    with pytest.MonkeyPatch.context() as monkeypatch:
        pour = output_files._pour
        monkeypatch.setattr(output_files, "_pour", lambda *arguments: (reader.join(60), pour(*arguments)))
        sentence = said_last(render(farm, "pipe"))
    assert sentence.startswith("Error: cannot write pipe: Broken pipe; the video is kept, and ltx download ")


def said_last(done):
    assert "Traceback" not in done.output
    assert done.exit_code == 2, done.output
    return done.stderr.splitlines()[-1]


@pytest.mark.lane("machine")
def test_a_device_is_written_to_and_stays(farm, tmp_path):
    null = device(tmp_path / "null", 3)
    assert render(farm, "null").exit_code == 0
    assert stat.S_ISCHR(null.lstat().st_mode)
    assert sorted(tree(tmp_path)) == ["null"]


@pytest.mark.lane("machine")
def test_a_full_device_is_one_sentence_with_the_way_to_fetch_the_video(farm, tmp_path):
    full = device(tmp_path / "full", 7)
    sentence = said_last(render(farm, "full"))
    name = farm.sent[0].rsplit("-")[-1]
    assert sentence == (
        "Error: cannot write full: No space left on device; the video is kept, and"
        f" ltx download {name} -o FILE fetches it"
    )
    assert stat.S_ISCHR(full.lstat().st_mode)
    assert farm.ltx("download", name, "-o", "a.mp4").exit_code == 0
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO


def test_a_write_that_fails_leaves_the_file_of_before(farm, job, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"before")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(VIDEO) - 1, limit[1]))
    try:
        done = farm.ltx("download", job, "-o", "a.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert f"cannot write a.mp4: File too large; the video is kept, and ltx download {job} -o" in said_last(done)
    assert tree(tmp_path) == {"a.mp4": b"before"}


def test_a_disk_without_permissions_is_written_to(farm, job, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"before")

    def forbidden(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", forbidden)
    assert farm.ltx("download", job, "-o", "a.mp4").exit_code == 0
    assert tree(tmp_path) == {"a.mp4": VIDEO}


def test_a_folder_that_takes_the_place_of_the_file_meanwhile_is_left(farm, tmp_path, monkeypatch):
    finish = StoredFarm.finish
    monkeypatch.setattr(StoredFarm, "finish", lambda *arguments: ((tmp_path / "a.mp4").mkdir(), finish(*arguments)))
    assert "cannot write a.mp4: Is a directory; the video is kept" in said_last(render(farm, "a.mp4"))
    assert sorted(tree(tmp_path)) == ["a.mp4"]


STANDARD_OUTPUT = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/../dev/stdout", "//dev/stdout", "link"]


@pytest.mark.parametrize("output", STANDARD_OUTPUT)
def test_standard_output_takes_the_video_and_nothing_else(farm, job, tmp_path, capfdbinary, output):
    (tmp_path / "link").symlink_to("/dev/stdout")
    for write in (lambda: render(farm, output), lambda: farm.ltx("download", job, "-o", output)):
        done = write()
        assert done.exit_code == 0, done.output
        assert done.stdout == ""
        assert "named pipe" not in done.stderr
        assert capfdbinary.readouterr().out == VIDEO
    assert sorted(tree(tmp_path)) == ["link"]


def test_a_file_that_the_shell_opened_is_written_to_in_place(farm, job, tmp_path):
    with (tmp_path / "there").open("wb") as file:
        file.write(b"before ")
        file.flush()
        assert farm.ltx("download", job, "-o", f"/dev/fd/{file.fileno()}").exit_code == 0
    assert (tmp_path / "there").read_bytes() == b"before " + VIDEO
    with (tmp_path / "there").open("rb") as file:
        assert "is not open for writing" in said(farm.ltx("download", job, "-o", f"/dev/fd/{file.fileno()}"))


def test_a_pipe_that_does_not_wait_for_its_reader_gets_all():
    """A Node program makes such pipes."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    large, got = bytes(10**6), []

    def read():
        with os.fdopen(ours, "rb") as pipe:
            got.append(pipe.read())

    reader = threading.Thread(target=read)
    assert not waits_for_reader(Path(f"/dev/fd/{theirs}")), "it has one"
    with writing(Path(f"/dev/fd/{theirs}")) as file:
        file.write(large)
        reader.start()
    os.close(theirs)
    reader.join(60)
    assert got == [large]


def test_a_terminal_gets_no_video(farm, job):
    ours, theirs = pty.openpty()
    try:
        for output in (f"/dev/fd/{theirs}", os.ttyname(theirs)):
            assert "an MP4 is not text, so it is not written to a terminal" in said(
                farm.ltx("download", job, "-o", output)
            )
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.lane("unit")
def test_closed_standard_output_is_said_first(tmp_path):
    words = [sys.executable, "-m", "ltx_client", "render", PROMPT, "-o", "-"]
    env = {**os.environ, "LTX_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *words], env=env, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (2, "Error: standard output is not open for writing; name a file\n")
    assert not (tmp_path / "home").exists()


def test_two_outputs_do_not_share_a_place(farm, job, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("same")
    pairs = [("-", "-"), ("-", "/dev/stdout"), ("pipe", "./pipe"), ("same", "same")]
    for output, preview in [*pairs, ("same", "link"), ("same", tmp_path / "same")]:
        assert "would both be written to" in said(render(farm, output, "--preview", preview))
    assert farm.sent == []
    assert "--json and --preview - are both written" in said(farm.ltx("show", job, "--preview", "-", "--json"))
    assert "standard output takes one" in said(farm.ltx("download", "--batch", "x", "-o", "-"))


def test_a_preview_is_written_whole_wherever_it_goes(farm, job, tmp_path, capfdbinary):
    (tmp_path / "old.jpg").write_bytes(b"before")
    (tmp_path / "link.jpg").symlink_to("old.jpg")
    assert render(farm, "a.mp4", "--preview", "link.jpg").exit_code == 0
    assert (tmp_path / "old.jpg").read_bytes() == FRAMES[1]
    assert (tmp_path / "link.jpg").is_symlink()
    assert farm.ltx("show", job, "--preview", "now.jpeg").exit_code == 0
    assert (tmp_path / "now.jpeg").read_bytes() == FRAMES[1]
    capfdbinary.readouterr()
    shown = farm.ltx("show", job, "--preview", "-")
    assert (shown.exit_code, shown.stdout, capfdbinary.readouterr().out) == (0, "", FRAMES[1])
    assert PROMPT in shown.stderr
    done = render(farm, "a.mp4", "--preview", "-")
    assert (done.exit_code, done.stdout) == (0, "")
    assert capfdbinary.readouterr().out == FRAMES[1] * 2
    assert done.stderr.splitlines()[-1] == "a.mp4"


@pytest.mark.parametrize("preview", ["x.png", "x.gif", "x.mp4", "no/x.jpg", "", ".", "new/", "x" * 256, "loop"])
@pytest.mark.parametrize("command", ["render", "show"])
def test_a_preview_that_cannot_be_is_refused_first(farm, job, tmp_path, command, preview):
    (tmp_path / "loop").symlink_to("loop")
    before = tree(tmp_path)
    words = [PROMPT, *SMALL] if command == "render" else [job]
    said(farm.ltx(command, *words, "--preview", preview))
    assert farm.sent == []
    assert tree(tmp_path) == before


def test_a_render_does_not_wait_for_who_reads_its_previews(farm, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert render(farm, "a.mp4", "--preview", "pipe").exit_code == 0
    handle = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert render(farm, "a.mp4", "--preview", "pipe").exit_code == 0
    assert os.read(handle, 10**6) == FRAMES[1] * 2
    os.close(handle)


def test_the_folder_of_the_process_may_be_gone(farm, job, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (("-o", "a.mp4"), ("-o", "{seed}.mp4"), ()):
        assert farm.ltx("download", job, *words).exit_code == 2
    assert render(farm, "a.mp4", "--preview", "a.jpg").exit_code == 2
    assert farm.ltx("download", job, "-o", tmp_path / "a.mp4").exit_code == 0
    monkeypatch.chdir(tmp_path)


@pytest.mark.lane("machine")
def test_a_preview_that_fails_in_the_middle_ends_no_render(farm, tmp_path):
    device(tmp_path / "full", 7)
    done = render(farm, "a.mp4", "--preview", "full")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("warning: cannot write full: No space left on device") == 1
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO


@pytest.mark.parametrize("command", [("bench", "model"), ("bench", "farm")])
@pytest.mark.parametrize("plot", ["x.jpg", "x.svg", "no/x.png", "", "x" * 256])
def test_a_plot_that_cannot_be_is_refused_before_anything_is_measured(farm, tmp_path, command, plot):
    said(farm.ltx(*command, "--plot", plot))
    assert tree(tmp_path) == {}
    assert "both written to standard output" in said(farm.ltx(*command, "--json", "--plot", "-"))


def test_a_video_from_python_keeps_the_same_rules(farm, job, tmp_path):
    handle = Render(farm.farm, farm.farm.find(job))
    (tmp_path / "old.mp4").write_bytes(b"before")
    (tmp_path / "link.mp4").symlink_to("old.mp4")
    assert handle.download("link.mp4") == Path("link.mp4")
    assert (tmp_path / "old.mp4").read_bytes() == VIDEO
    assert handle.download() == Path(f"ltx-{job}.mp4")
    assert handle.download("-") == Path("-")
    with pytest.raises(UsageError, match=re.escape("ball.gif is invalid: it ends in .gif")):
        handle.download("ball.gif")
    with pytest.raises(UsageError, match="File name too long"):
        handle.download("x" * 300)
    assert sorted(tree(tmp_path)) == ["-", "link.mp4", f"ltx-{job}.mp4", "old.mp4"]


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("answer", ["y", "n"])
def test_ctrl_c_before_a_job_is_queued_is_no_question_about_it(farm, monkeypatch, answer):
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr("ltx_client.commands.jobs.render.sys", SimpleNamespace(stdin=terminal))
    monkeypatch.setattr("click.confirm", lambda *_, **__: answer == "y")
    for name in ("farm.farm.Farm.send", "commands.jobs.render._announce"):
        with monkeypatch.context() as context:
            context.setattr(f"ltx_client.{name}", interrupted)
            done = render(farm, "ball.mp4")
        assert (done.exit_code, done.stderr.splitlines()[-1]) == (3, "Error: interrupted before the job was queued")
    assert farm.sent == []


def test_ctrl_c_while_a_video_is_fetched_says_how_it_is_fetched_later(farm, monkeypatch):
    monkeypatch.setattr("ltx_client.terminal.downloading.fetch", interrupted)
    done = render(farm, "ball.mp4")
    (job_id,) = farm.sent
    assert (done.exit_code, done.stdout) == (130, "")
    assert (
        done.stderr.splitlines()[-1]
        == f"stopped waiting; the video is kept, and ltx download {job_id[-12:]} downloads it"
    )
