"""Test who may import whom: between packages, between folders, and libraries for one folder only."""

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import click
import pytest

from ltx_client.cli import main
from tests.papers import plain

ROOT = Path(__file__).parents[3]
PACKAGES = ("ltx_client", "ltx_worker", "ltx_models")
MOST_MODULES = 12
"""In a folder, beside its `__init__` and its sub-folders."""
PLAIN = {
    f"ltx_models.{name}"
    for name in (
        "blas",
        "errors",
        "machine_faults",
        "gpu_environment",
        "families.family",
        "families.stages",
        "families.variants",
        "files.file_lock",
        "files.formats",
        "files.hub",
        "files.model_files",
        "files.output_files",
        "files.urls",
        "files.volumes",
        "media.headers",
        "media.lengths",
        "media.spans",
        "memory",
        "pocket.grammar",
        "request",
        "self_test.video_trial",
        "text_encoders.tokenizer",
    )
}
"""What needs no MLX. `hub` and `model_files` are here because a base install too lists and downloads models."""
WIRE = {"errors", "families.stages", "families.variants", "memory", "request"}
"""The modules of the model library that the wire contract is made of."""


def modules_of(package):
    """Return {dotted name: path}; a package's own name stands for its `__init__`."""
    paths = {path: path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / package).rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in paths.items()}


MODULES = {name: path for package in PACKAGES for name, path in modules_of(package).items()}


def imported(path):
    """Return every name that a file imports anywhere, for `from a import b` both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules_imported(name):
    """Return our modules that one imports. `from folder import module` is of the module, not of the folder."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & MODULES.keys()) - {name}


def room_of(name):
    """Return the folder of a module. What is in a package itself, such as its errors, is a room of its own."""
    if MODULES[name].name == "__init__.py":
        return name
    folder = name.rpartition(".")[0]
    return name if folder in PACKAGES else folder


def in_folder(folder):
    return [name for name in MODULES if name == folder or name.startswith(f"{folder}.")]


def foreign(folder, *allowed):
    """Return a folder's imports from outside of it, except for names that begin with one of `allowed`."""
    names = {each for name in in_folder(folder) for each in imported(MODULES[name])}
    inside = (folder, *allowed)
    return {name for name in names if not any(name == one or name.startswith(f"{one}.") for one in inside)}


def test_the_model_library_imports_no_sibling():
    assert {name for name in foreign("ltx_models") if name.split(".")[0] in PACKAGES} == set()


def test_the_client_imports_only_plain_modules_of_the_model_library():
    siblings = {name for name in foreign("ltx_client", *PLAIN) if name.split(".")[0] in PACKAGES}
    assert siblings - {name.rpartition(".")[0] for name in PLAIN} == set()


def test_the_worker_imports_of_the_client_only_what_both_share():
    own = foreign("ltx_worker", "ltx_client.protocol", "ltx_client.shared")
    assert {name for name in own if name.split(".")[0] == "ltx_client"} == set()


def test_folders_do_not_import_each_other():
    """They do not do so through others either."""
    before = {}
    for name in MODULES:
        before.setdefault(room_of(name), set()).update(room_of(each) for each in modules_imported(name))
    before = {room: others - {room} for room, others in before.items()}
    while leaves := {room for room, others in before.items() if not others}:
        before = {room: others - leaves for room, others in before.items() if room not in leaves}
    assert before == {}


def test_no_folder_is_a_drawer():
    sizes = Counter(name.rpartition(".")[0] for name, path in MODULES.items() if path.name != "__init__.py")
    assert {folder: size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_no_folder_of_tests_is_a_drawer():
    sizes = Counter(path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))
    assert {folder: size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_the_farm_knows_no_terminal():
    assert {name for name in foreign("ltx_client.farm") if name.split(".")[0] in ("click", "rich")} == set()
    assert {name for name in foreign("ltx_client.farm") if name.startswith("ltx_client.terminal")} == set()


def test_the_wire_needs_nothing_but_pydantic():
    """The exceptions are the library that makes ids, and the types of the broker's client, which are not imported."""
    known = {*sys.stdlib_module_names, "pydantic", "uuid_utils", "redis"}
    others = {name for name in foreign("ltx_client.protocol") if name.split(".")[0] not in known}
    models = {f"ltx_models.{name}" for name in WIRE}
    assert {name for name in others if not any(name == one or name.startswith(f"{one}.") for one in models)} == set()
    code = "import sys, ltx_client.protocol.workers, ltx_client.protocol.state; print('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"


@pytest.mark.parametrize("library", ["celery", "kombu"])
def test_one_folder_of_each_side_knows_celery(library):
    users = {room_of(name) for name, path in MODULES.items() if library in {n.split(".")[0] for n in imported(path)}}
    assert users <= {"ltx_client.shared.celery", "ltx_worker.celery"}


def test_what_is_installed_does_not_import_the_training():
    """Only a clone has it: the wheel leaves it out."""
    training = "ltx_models.pocket.train"
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["exclude"] == [f"/{training.replace('.', '/')}"]
    inside = set(in_folder(training))
    assert inside
    assert {name for name in MODULES.keys() - inside if modules_imported(name) & inside} == set()


def test_no_command_imports_a_command():
    folder = "ltx_client.commands"
    commands = {name for name in in_folder(folder) if MODULES[name].name != "__init__.py"}
    assert {name: found for name in commands if (found := modules_imported(name) & commands)} == {}


def test_the_command_loads_neither_mlx_nor_the_worker():
    code = "import sys, ltx_client.cli; print([m for m in sys.modules if m.split('.')[0] in ('mlx', 'ltx_worker')])"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_an_example_and_a_place_in_the_readme(name):
    command = main.commands[name]
    assert command.help
    assert f"ltx {name}" in command.epilog
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    assert f"ltx {name}" in plain((ROOT / "ltx_client/README.md").read_text()), "an example besides the table"


@pytest.mark.parametrize("name", [name for name in sorted(main.commands) if name in ("jobs", "show", "workers")])
def test_every_listing_has_json(name):
    assert any("--json" in option.opts for option in main.commands[name].params)
