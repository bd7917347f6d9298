"""Test that every command that the READMEs show exists, with its options."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from ltx_client.cli import main as ltx
from ltx_worker.cli import main as ltx_worker
from tests.papers import PAPERS

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:ltx|ltx-worker) [^`]+)`")
PROGRAMS = {"ltx": ltx, "ltx-worker": ltx_worker}
STANDS_FOR = {"…": "pocket", "VARIANT": "pocket"}
PREFIX = re.compile(r"^(?:sudo |uv run |/opt/ltx-farm/venv/bin/|LTX_\w+=\S+ )*")


def shown(path):
    """Return the words of each command of `ltx` and `ltx-worker` that a README tells a reader to run."""
    text = path.read_text()
    lines = [line for block in BLOCK.findall(text) for line in re.sub(r"\\\n", " ", block).splitlines()]
    for line in [*lines, *INLINE.findall(text)]:
        for command in line.split("&&"):
            words = shlex.split(PREFIX.sub("", command.strip()), comments=True)
            if words and words[0] in PROGRAMS:
                yield [STANDS_FOR.get(word, word) for word in words]


LINES = sorted({tuple(words) for path in (*PAPERS, ROOT / "deploy/README.md") for words in shown(path)})


def test_they_show_commands():
    assert len(LINES) > 60
    assert {words[0] for words in LINES} == set(PROGRAMS)


def read(words):
    """Let the program parse these words to their end, with its help in place of the action."""
    return CliRunner().invoke(PROGRAMS[words[0]], [*words[1:], "--help"])


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_command_that_is_shown_can_be_read(words, monkeypatch, tmp_path):
    (tmp_path / "config.toml").write_text("[farms.studio]\n[farms.admin]\n")
    monkeypatch.setenv("LTX_CONFIG", str(tmp_path / "config.toml"))
    done = read(words)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "words", [("ltx", "redner", "x"), ("ltx", "render", "x", "--sede", "1"), ("ltx-worker", "sing")]
)
def test_one_that_there_is_not_cannot(words):
    assert read(words).exit_code == 2
