"""Write what the READMEs say of the code from the code itself: `python -m tests.papers` after a change to it.

A README marks a place by `<!-- NAME -->` and `<!-- end of NAME -->`; the text between is written here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click

from ltx_client.cli import main as ltx
from ltx_client.protocol.changes.messages import Change
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import TRANSITIONS, Status
from ltx_client.shared.settings import FarmSettings
from ltx_models.families.variants import VARIANTS
from ltx_worker.attempt.states import BEGINNINGS, ENDS, State
from ltx_worker.attempt.states import TRANSITIONS as ATTEMPT_MOVES
from ltx_worker.cli import main as ltx_worker
from ltx_worker.settings import WorkerSettings

__all__ = ["DOORS", "PAPERS", "commands_of", "places_in", "plain", "written"]

ROOT = Path(__file__).parents[1]
DOORS = tuple(ROOT / package / "README.md" for package in ("ltx_client", "ltx_worker", "ltx_models"))
PAPERS = (
    ROOT / "README.md",
    *DOORS,
    *(ROOT / name for name in ("tests/README.md", ".github/CONTRIBUTING.md", "deploy/CHANGELOG.md")),
)
PLACE = re.compile(r"(<!-- (?P<name>[a-z -]+) -->\n)(?P<text>.*?)(<!-- end of (?P=name) -->\n)", re.DOTALL)
MOVES = {
    (Status.QUEUED, Status.RUNNING): "claim",
    (Status.QUEUED, Status.CANCELLED): "cancel",
    (Status.RUNNING, Status.RUNNING): "claim, after the lease lapsed",
    (Status.RUNNING, Status.QUEUED): "release (stopped, paused, or the machine's fault)",
    (Status.RUNNING, Status.DONE): "commit",
    (Status.RUNNING, Status.FAILED): "fail (the job's own fault)",
    (Status.RUNNING, Status.CANCELLED): "cancel",
}
"""What the ledger calls each change of a job's state."""


def commands_of(group: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every visible command with all the words that call it."""
    if not isinstance(group, click.Group):
        yield name, group
        return
    context = click.Context(group, info_name=name)
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        assert command is not None
        if not command.hidden:
            yield from commands_of(command, f"{name} {each}")


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _commands(group: click.Group, name: str) -> str:
    rows = []
    for words, command in commands_of(group, name):
        assert command.help is not None
        context = click.Context(command)
        arguments = [each.make_metavar(context) for each in command.params if isinstance(each, click.Argument)]
        does = " ".join(command.help.partition("\n\n")[0].split())
        rows.append((f"`{' '.join([words, *arguments])}`", does))
    return _table(("command", "what it does"), iter(rows))


def _default(value: Any) -> str:
    match value:
        case None | "":
            return "unset"
        case bool():
            return f"`{str(value).lower()}`"
        case float() | int():
            return f"`{value:.12g}`"
    return f"`{value}`"


def _settings(model: type[FarmSettings], *, but: type[FarmSettings] | None = None) -> str:
    known = but.model_fields if but else {}
    return _table(
        ("variable", "default", "meaning"),
        (
            (
                f"`LTX_{name.upper()}`",
                "this machine's" if field.default_factory else _default(field.default),
                field.description or "",
            )
            for name, field in model.model_fields.items()
            if name not in known
        ),
    )


def _keys() -> str:
    """Return the table of keys; each name's docstring says the kind of its value, who writes it, and what it is."""
    names = Names("")
    rows = []
    for name, method in vars(Names).items():
        if name.startswith("_") or not callable(method) or method.__annotations__.get("return") != "str":
            continue
        arguments = [each for each in method.__annotations__ if each != "return"]
        key = method(names, *(f"{{{each.removesuffix('_id')}}}" for each in arguments))
        says = re.fullmatch(
            r"Return the key of a (.+?), (written by [^.]+)\. (.+)", " ".join((method.__doc__ or "").split())
        )
        assert says is not None, name
        rows.append((f"`{key}`", says[1], f"{says[2].capitalize()}. {says[3]}"))
    return _table(("key", "kind", "who writes it, and what it is"), iter(rows))


def _changes() -> str:
    """Return the table of what the farm's channel tells; each class's docstring says when."""
    return _table(
        ("`type`", "fields", "when"),
        (
            (
                f"`{kind.model_fields['type'].default}`",
                ", ".join(f"`{name}`" for name in kind.model_fields if name != "type"),
                " ".join((kind.__doc__ or "").split()),
            )
            for kind in get_args(Change)
        ),
    )


def _variants() -> str:
    return _table(
        ("variant", "what it is", "RAM for a render", "steps", "default size"),
        (
            (
                f"`{row.name}`",
                row.description,
                f"{row.ram_gb} GB",
                str(row.num_steps),
                f"{row.width}x{row.height}, {row.num_frames} frames",
            )
            for row in VARIANTS.values()
        ),
    )


def _states() -> str:
    moves = [f"    {source} --> {target}: {MOVES[source, target]}" for source, target in _transitions()]
    ends = [f"    {status} --> [*]" for status, targets in TRANSITIONS.items() if not targets]
    lines = ["stateDiagram-v2", "    [*] --> queued: submit", *moves, *ends]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def _attempt_states() -> str:
    begin = [f"    [*] --> {state}: {why}" for state, why in BEGINNINGS.items()]
    moves = [f"    {before} --> {after}: {why}" for (before, after), why in ATTEMPT_MOVES.items()]
    ends = [f"    {state} --> [*]" for state in State if state in ENDS]
    return "```mermaid\n" + "\n".join(["stateDiagram-v2", *begin, *moves, *ends]) + "\n```\n"


def _transitions() -> Iterator[tuple[Status, Status]]:
    for source, targets in TRANSITIONS.items():
        yield from ((source, target) for target in sorted(targets, key=list(Status).index))


def _lanes() -> str:
    """Return the table of lanes, the markers of pytest; `addopts` selects the default lane."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    default = re.search("-m ('[^']+'|[a-z]+)", options["addopts"])
    assert default is not None
    rows = [(f"`{name}`", text.strip()) for name, _, text in (each.partition(":") for each in options["markers"])]
    return f"By itself, `pytest` runs `-m {default[1]}`.\n\n" + _table(("marker", "tests"), iter(rows))


def _glossary() -> str:
    """Return the client's glossary, which the other doors repeat."""
    return places_in(DOORS[0].read_text())["glossary"]


TEXTS = {
    "ltx commands": lambda: _commands(ltx, "ltx"),
    "ltx-worker commands": lambda: _commands(ltx_worker, "ltx-worker"),
    "farm settings": lambda: _settings(FarmSettings),
    "worker settings": lambda: _settings(WorkerSettings, but=FarmSettings),
    "redis keys": _keys,
    "changes": _changes,
    "variants": _variants,
    "states": _states,
    "attempt states": _attempt_states,
    "lanes": _lanes,
    "glossary": _glossary,
}


def places_in(text: str) -> dict[str, str]:
    """Return the text at each marked place of a README."""
    return {found["name"]: found["text"] for found in PLACE.finditer(text)}


def plain(text: str) -> str:
    """Return the text that somebody has written by hand."""
    return PLACE.sub("", text)


def written(path: Path) -> str:
    """Return a README as it must be."""
    return PLACE.sub(lambda found: f"{found[1]}{TEXTS[found['name']]()}{found[4]}", path.read_text())


if __name__ == "__main__":
    for paper in PAPERS:
        paper.write_text(written(paper))
