"""Makes the README's pictures from what the farm of this machine does: `python -m tests.pictures`, a minute or two.

terminal.svg: commands and what a terminal of 100 columns shows of them.  videos.webp: the videos that were rendered.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pexpect
from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parents[1] / ".github" / "pictures"
COLUMNS = 100
SEED = 7
PROMPTS = {
    "ball.mp4": "a red ball rolls to the right on a navy background",
    "square.mp4": "a blue square bounces on a grey background",
    "triangle.mp4": "a small green triangle spins on a pink background",
    "circle.mp4": "a large yellow circle moves up on a black background",
}
AT_STEP = "5/8"
"""Of the render that is shown at work."""
PAUSED = "01a22912-0000-7000-8000-3fa85f64a1b2"
GAP = 8
"""Pixels between two videos."""
SETTINGS = {"LTX_WORKER_NAME": "desk", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
KEPT = ("HOME", "LANG", "LC_ALL", "LD_PRELOAD", "PATH", "TMPDIR")
CONTROL = re.compile(r"\x1b(?:\[[?0-9;]*[A-Zac-ln-z]|\][^\x07]*\x07|_.*?\x1b\\)")
"""What moves a cursor or asks the terminal something: all but colours."""


def main() -> None:
    """Write both pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ltx-pictures-") as name, _farm(Path(name)) as environment:
        folder = Path(name)
        screen = Console(record=True, width=COLUMNS, file=io.StringIO())
        *others, ball = reversed(PROMPTS)
        for path in others:
            _run(_render(path), folder, environment)
        _show(screen, _render(ball), _run(_render(ball), folder, environment))
        for prompt in PROMPTS.values():
            _run(["submit", prompt, "--frames", "121"], folder, environment)
        _run(["submit", "an orange diamond falls on a brown background", "--id", PAUSED], folder, environment)
        _run(["pause", PAUSED], folder, environment)
        _await(folder, environment)
        for words in (["jobs"], ["workers"]):
            _show(screen, words, _run(words, folder, environment))
        screen.save_svg(str(PICTURES / "terminal.svg"), title="ltx", code_format=_without_fonts_of_others())
        _animate([folder / path for path in PROMPTS], PICTURES / "videos.webp")


def _render(path: str) -> list[str]:
    return ["render", PROMPTS[path], "--seed", str(SEED), "-o", path]


@contextlib.contextmanager
def _farm(folder: Path) -> Iterator[dict[str, str]]:
    """Run `ltx up` on a home of its own; yield the environment in which commands find it."""
    own = {"LTX_HOME": str(folder / "home"), "LTX_CONFIG": str(folder / "config.toml")}
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | SETTINGS | own
    with subprocess.Popen([sys.executable, "-m", "ltx_client", "up"], env=environment) as process:
        try:
            yield environment
        finally:
            process.terminate()


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Return all that a command writes to a terminal."""
    command = ["-m", "ltx_client", *words]
    size = (40, COLUMNS)
    child = pexpect.spawn(
        sys.executable, command, env=environment, cwd=str(folder), dimensions=size, timeout=600, encoding="utf-8"
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    return str(child.before)


def _await(folder: Path, environment: dict[str, str]) -> None:
    """Return once a job has done some of its steps."""
    while not re.search(r"running\S* +[2-6]/8", re.sub(r"\x1b\[[0-9;]*m", "", _run(["jobs"], folder, environment))):
        time.sleep(0.2)


def _show(screen: Console, words: list[str], written: str) -> None:
    """Add a command, and the lines that it left on the terminal; of one that was drawn again, how it stood at work."""
    screen.print(Text.assemble(("$ ", "bold green"), ("ltx " + shlex.join(words).replace("'", '"'), "bold")))
    for line in written.rstrip().split("\r\n"):
        drawn = [CONTROL.sub("", part).replace("\r", "") for part in line.split("\x1b[2K")]
        at_work = [part for part in drawn if AT_STEP in part]
        for part in [*at_work[-1:], drawn[-1]]:
            if part:
                screen.print(Text.from_ansi(part), soft_wrap=True)
    screen.print()


def _without_fonts_of_others() -> str:
    """Return rich's SVG without comments, and without fonts that a reader's browser would fetch from another host."""
    return re.sub(r"@font-face \{\{.*?\}\}|<!--.*?-->", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def _animate(paths: list[Path], target: Path) -> None:
    """Write all videos, which are of one size and length, side by side."""
    videos = [_frames(path) for path in paths]
    width, height = videos[0][0].size
    pictures = []
    for frames in zip(*videos, strict=True):
        picture = Image.new("RGBA", ((width + GAP) * len(paths) - GAP, height))
        for place, frame in enumerate(frames):
            picture.paste(frame, (place * (width + GAP), 0))
        pictures.append(picture)
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=83, loop=0, quality=80, method=6)


def _frames(path: Path) -> list[Image.Image]:
    reader = imageio_ffmpeg.read_frames(str(path))
    size = next(reader)["size"]
    return [Image.frombytes("RGB", size, frame) for frame in reader]


if __name__ == "__main__":
    main()
