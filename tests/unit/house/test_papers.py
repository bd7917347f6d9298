"""Test that the READMEs say what the code says, name only existing things, and that the first one is short."""

import re
from pathlib import Path

import pytest

from ltx_worker.settings import WorkerSettings
from tests.papers import DOORS, PAPERS, places_in, written

ROOT = Path(__file__).parents[3]
TABLES = {
    "ltx_client": {"ltx commands", "farm settings", "changes", "glossary"},
    "ltx_worker": {"ltx-worker commands", "worker settings", "redis keys", "states", "attempt states", "glossary"},
    "ltx_models": {"variants", "glossary"},
}
LONGEST = 120
"""Lines of the first README: it is read from its beginning to its end."""
LARGEST = 200_000
"""Bytes of a picture of the first README."""
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)]*))?\)")
FILE = re.compile(r"`((?:[a-z_0-9.]+/)*[A-Za-z_0-9.-]+\.(?:py|md|toml|lua|sh|in|json|yml|png)|(?:\.?[a-z_0-9]+/)+)`")
ELSEWHERE = {"worker.env", "self-test.json", "sidecar.json"}
"""What a machine of a farm has, and this repository has not."""


def names_of(paper):
    return str(paper.relative_to(ROOT))


@pytest.mark.parametrize("paper", PAPERS, ids=names_of)
def test_what_is_made_of_the_code_is_as_the_code_says(paper):
    assert paper.read_text() == written(paper), "run `python -m tests.papers`"


def test_each_door_has_its_tables():
    assert {path.parent.name: set(places_in(path.read_text())) for path in DOORS} == TABLES
    assert len({places_in(path.read_text())["glossary"] for path in DOORS}) == 1


def test_the_first_readme_is_short_and_begins_with_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= LONGEST
    blocks = re.findall(r"```sh\n(.*?)```", "\n".join(lines), re.DOTALL)
    assert blocks[:2] == [
        'pip install uv && uv run ltx render "a red ball rolls to the right on a navy background"\n',
        "uv run pytest\n",
    ]


def test_each_setting_has_a_description():
    fields = WorkerSettings.model_fields
    assert {name for name, field in fields.items() if not re.fullmatch(r"[A-Z`].*\.", field.description or "")} == set()


def anchors(paper):
    """Return the anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.*)$", paper.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("paper", PAPERS, ids=names_of)
def test_each_link_leads_to_something(paper):
    for path, anchor in LINK.findall(paper.read_text()):
        target = paper.parent / path if path else paper
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_first_readme_shows_each_picture_that_is_made_for_it():
    """Small ones, for which a browser asks nobody else."""
    shown = re.findall(r"!\[[^\]]+\]\((.github/[^)]*)\)", (ROOT / "README.md").read_text())
    assert sorted(ROOT / path for path in shown) == sorted((ROOT / ".github/pictures").iterdir()) != []
    for path in shown:
        content = (ROOT / path).read_bytes()
        assert len(content) < LARGEST
        hosts = re.findall(rb"(?:https?:)?//[^\s\"')]+", content) if path.endswith(".svg") else []
        assert set(hosts) <= {b"http://www.w3.org/2000/svg"}, "its namespace is no address that is asked"


@pytest.mark.parametrize("paper", PAPERS, ids=names_of)
def test_each_file_that_is_named_exists(paper):
    """A path is relative to the README's folder, or to the repository's."""
    named = set(FILE.findall(paper.read_text())) - ELSEWHERE
    places = (paper.parent, ROOT)
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


@pytest.mark.parametrize("paper", PAPERS, ids=names_of)
def test_no_line_is_longer_than_an_editor_is_wide(paper):
    """Except for lines of tables and blocks."""
    text = re.sub(r"```.*?```", "", paper.read_text(), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 125] == []
