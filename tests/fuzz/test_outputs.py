"""Fuzz `-o` and `--preview`: never a traceback, never a write outside the named place."""

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.campaign import Kind
from tests.stored_farm import FRAMES, SMALL, VIDEO, StoredFarm

PROMPTS = (
    "a red ball",
    "x/../../outside/evil",
    "..",
    "-rf",
    "CON",
    "x" * 3000,
    "\u202e\u00e9\U0001f600",
    ".hidden",
    "a/b\\c:d",
)
NAMES = (
    "a",
    "a.mp4",
    "b.M4V",
    "c.gif",
    "x" * 255,
    "x" * 256,
    "\u00e9" * 126 + ".mp4",
    "caf\udce9.mp4",
    "new\nline",
    "~",
    "-",
    " ",
)
THERE = (
    "file.mp4",
    "folder",
    "to-file",
    "to-folder",
    "dangling",
    "dangling-far",
    "loop",
    "out-of-it",
    "up",
    "folder/deep",
    "socket",
)
FIELDS = (
    "{prompt}",
    "{prompt:.9}",
    "{seed:04}",
    "{id}",
    "{index}",
    "{fps}",
    "{date}",
    "{}",
    "{x}",
    "{prompt.a}",
    "{seed:9}",
    "{{",
    "}}",
    "{",
)
PIECES = (
    *NAMES,
    *THERE,
    *FIELDS,
    *("..", ".", "", "/", "//", ".mp4", ".mp4", ".jpg", "\0", "\ud800", "\x1b[2J", "*", "%s"),
)
VALID = (
    *("a.mp4", "folder", "to-file", "to-folder/a.mp4", "dangling", "folder/../a", "./a.mp4", "out-of-it"),
    *("{prompt}.mp4", "folder/{seed}/{prompt:.40}-{id}.mp4", "{{{width}}}.mp4"),
)
SPECIAL = re.compile(r"(?:^|/)(?:dev|proc|sys)(?:/|$)")


def made(folder):
    """Make the files that paths may name, and `outside`, which no path may name except by one link."""
    (folder / "here/folder/deep").mkdir(parents=True)
    (folder / "outside").mkdir()
    (folder / "outside/mine").write_bytes(b"mine")
    here = folder / "here"
    (here / "file.mp4").write_bytes(b"before")
    for name, target in (
        *(("to-file", "file.mp4"), ("to-folder", "folder"), ("dangling", "folder/new"), ("dangling-far", "no/where")),
        *(("loop", "loop"), ("out-of-it", folder / "outside/named"), ("up", "to-folder")),
    ):
        (here / name).symlink_to(target)
    os.mknod(here / "socket", stat.S_IFSOCK | 0o600)
    return here


def contents(folder):
    """Return every path with its kind and content, as far as that is known without following a link."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        what = path.read_bytes() if stat.S_ISREG(status.st_mode) else stat.S_ISLNK(status.st_mode) and path.readlink()
        found[str(path)] = stat.S_IFMT(status.st_mode), what
    return found


def is_named(path, output, here, is_template):
    """Return whether the person who gave this output named the file: itself, by a link, or by its folder."""
    if is_template:
        folder = os.path.realpath(here / (output.split("{", 1)[0].rpartition("/")[0] or "."))
        return Path(folder) in path.parents
    real = Path(os.path.realpath(here / output))
    return path.parent == real if real.is_dir() else path == real


@pytest.fixture(scope="module")
def read():
    """Run `ltx render` or `ltx show` in a new folder, and compare all files there before and after."""
    base = Path(tempfile.mkdtemp(prefix="ltx-fuzz-"))
    farm = StoredFarm(base / "storage")
    cwd = Path.cwd()
    with pytest.MonkeyPatch.context() as monkeypatch:
        farm.installed(monkeypatch)

        def run(data):
            option, output, prompt = data
            shutil.rmtree(base / "tree", ignore_errors=True)
            here = made(base / "tree")
            os.chdir(here)
            before = contents(base / "tree")
            words = ["render", *SMALL, "--seed", "7", option, output, *["-o", "video"] * (option != "-o"), "--", prompt]
            done = farm.ltx(*words)
            os.chdir(cwd)
            check(done, before, contents(base / "tree"), output, here, option)
            return None if done.exit_code == 0 else done.stderr.splitlines()[-1]

        yield run
    os.chdir(cwd)
    shutil.rmtree(base)


def check(done, before, after, output, here, option):
    assert done.exit_code in (0, 2), (done.exception, done.output)
    assert done.exit_code == 0 or done.stderr.splitlines()[-1].startswith("Error: ")
    if done.exit_code:
        assert after == before
        return
    written = {path: what for path, what in after.items() if before.get(path) != what}
    assert before.keys() <= after.keys(), "something was removed"
    assert all(before.get(path, what)[0] == what[0] for path, what in written.items()), "something was replaced"
    files = {path: what for path, (kind, what) in written.items() if kind == stat.S_IFREG}
    video = str(here / "video")
    if option != "-o":
        assert files.pop(video) == VIDEO
    assert list(files.values()) == [VIDEO if option == "-o" else FRAMES[-1]]
    (path,) = map(Path, files)
    assert is_named(path, output, here, is_template=option == "-o" and bool(set("{}") & set(output)))
    assert "outside" not in path.relative_to(here.parent).parts or path.name == "named"


def in_the_folder(texts):
    """Draw relative paths that stay in the compared folder and do not name this process's stdout."""
    texts = texts.map(lambda text: text.lstrip("/"))
    return texts.filter(lambda text: text != "-" and text.count("..") < 2 and not SPECIAL.search(text))


JOINED = st.tuples(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5), st.sampled_from(("", "/", "/")))
ODD = in_the_folder(JOINED.map(lambda drawn: drawn[1].join(drawn[0])) | st.text(max_size=20))
MUTATED = in_the_folder(
    st.tuples(st.sampled_from(VALID), st.sampled_from(("", *PIECES)), st.integers(0, 40)).map(
        lambda drawn: drawn[0][: drawn[2]] + drawn[1] + drawn[0][drawn[2] :]
    )
)


def test_outputs(campaign, read):
    options, prompts = st.sampled_from(("-o", "-o", "-o", "--preview")), st.sampled_from(PROMPTS)
    valid = (*(("-o", output, PROMPTS[0]) for output in VALID), *(("-o", "{prompt}.mp4", text) for text in PROMPTS))
    mutated, odd = st.tuples(st.just("-o"), MUTATED, prompts), st.tuples(options, ODD, prompts)
    campaign(Kind("output paths", read, valid, mutated, odd), one_in=4)
