"""Test what `import ltx_client` offers, and that all three packages are marked as typed."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ltx_client
from ltx_client import errors

ROOT = Path(__file__).parents[3]


def test_all_that_is_exported_is_there():
    assert set(ltx_client.__all__) <= set(dir(ltx_client))
    for name in ltx_client.__all__:
        assert getattr(ltx_client, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = ltx_client.Nothing


def test_every_error_is_exported():
    """Those that `Farm` raises are all of the tree whose root is `FarmError`."""
    tree = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert {name for name in ltx_client.__all__ if getattr(ltx_client, name).__module__ == errors.__name__} == tree
    assert all(issubclass(getattr(ltx_client, name), ltx_client.FarmError) for name in tree)


def test_an_error_alone_imports_nothing_of_a_farm():
    code = "import sys; from ltx_client import JobFailed; print({'redis', 'pydantic', 'click'} & set(sys.modules))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout == "set()\n"


def test_all_packages_are_typed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in packages["packages"]:
        folder = Path(importlib.import_module(package).__file__).parent
        assert (folder / "py.typed").read_bytes() == b""
