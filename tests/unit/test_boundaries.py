"""Who may import whom, and what the commands promise to document."""

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ltx_client.cli import main

ROOT = Path(__file__).parents[2]
PACKAGES = {"ltx_client", "ltx_models", "ltx_worker"}
PLAIN = {
    f"ltx_models.{name}"
    for name in (
        "errors",
        "faults",
        "file_lock",
        "gpu_environment",
        "hub",
        "media.formats",
        "media.headers",
        "media.lengths",
        "media.spans",
        "memory",
        "model_files",
        "output_files",
        "pocket.grammar",
        "request",
        "tokenizer",
        "urls",
        "variants",
        "volumes",
    )
}
"""What needs no MLX. `hub` and `model_files` are here because a base install too lists and downloads models."""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def siblings_of(package):
    """The modules of the other packages that this one imports."""
    own = {name for path in (ROOT / package).rglob("*.py") for name in imported(path)}
    return {name for name in own if name.split(".")[0] in PACKAGES - {package}}


def test_the_model_library_imports_no_sibling():
    assert siblings_of("ltx_models") == set()


def test_the_client_imports_only_plain_modules_of_the_model_library():
    assert {name for name in siblings_of("ltx_client") if not _is_plain(name)} == set()


def _is_plain(name):
    """It is one of PLAIN, or a name in one."""
    return any(name == plain or name.startswith(f"{plain}.") for plain in PLAIN)


def test_the_worker_imports_only_the_protocol_of_the_client():
    of_the_client = {name for name in siblings_of("ltx_worker") if name.startswith("ltx_client")}
    assert {name for name in of_the_client if not name.startswith("ltx_client.protocol")} == set()


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
    assert f"ltx {name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in sorted(main.commands) if name in ("jobs", "show", "workers")])
def test_every_listing_has_json(name):
    assert any("--json" in option.opts for option in main.commands[name].params)
