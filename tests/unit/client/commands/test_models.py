"""Test `ltx models`: what it says about this machine, and about an install without MLX."""

import importlib.util
import json
import shutil

import click
import psutil
import pytest
from click.testing import CliRunner

from ltx_client.cli import main
from ltx_client.commands.models import command as models
from ltx_client.commands.models import listing
from ltx_models.families.variants import VARIANTS, find_variant


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("LTX_MODELS_DIR", raising=False)
    return lambda *arguments: CliRunner().invoke(main, ["models", *arguments])


def test_list_says_what_fits_and_why_not(run, monkeypatch):
    monkeypatch.setattr(listing, "machine_memory", lambda: 24 * 2**30)
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert list(rows) == list(VARIANTS)
    assert [name for name, row in rows.items() if row["fits"]] == [
        "pocket",
        "pocket-distilled",
        "distilled-fp8",
        "distilled",
    ]
    assert rows["dev"]["reason"] == "a render may use 19 GB of this machine's 26 GB"
    assert rows["dev"]["missing"] == ["checkpoint", "text encoder", "tokenizer"]
    assert rows["pocket"]["missing"] == []
    table = run("list").stdout
    assert "does not fit: a render may use 19 GB" in table
    assert table.count("not here") == 3


@pytest.mark.parametrize(("gigabytes", "fits"), [(8, 2), (16, 3), (24, 4), (36, 5)])
def test_the_macs_that_the_descriptions_name_are_large_enough(gigabytes, fits):
    rows = [listing.listed(variant, gigabytes * 2**30) for variant in VARIANTS.values()]
    assert sum(row.fits for row in rows) == fits
    if fits > 2:
        assert f"for Macs of {gigabytes} GB" in [row for row in rows if row.fits][-1].description


def test_this_machine_has_memory():
    assert 10**9 < listing.machine_memory() < 10**14
    assert abs(listing.machine_memory() - psutil.virtual_memory().total) < 2**20, "what other programs show"


def test_aliases_find_their_variant():
    assert find_variant("distilledFP8") is VARIANTS["distilled-fp8"]


@pytest.mark.parametrize("name", ["download", "verify"])
def test_unknown_variants_are_refused(run, name):
    result = run(name, "sora")
    assert result.exit_code == 2
    assert "the known ones are: pocket, pocket-distilled, distilled-fp8, distilled, dev" in result.stderr


def test_bundled_files_need_no_download(run):
    result = run("download", "pocket")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].endswith("pocket.safetensors")


def test_converting_without_mlx_says_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run("convert", "pocket", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "pip install 'ltx-farm[worker]'" in result.stderr


def test_convert_writes_a_folder_that_takes_the_variants_place(run, monkeypatch, tmp_path):
    result = run("convert", "pocket", str(tmp_path / "pocket"), "--quantize", "8")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'pocket'}\n"
    assert (tmp_path / "pocket" / "tokenizer" / "spiece.model").is_file()
    assert json.loads((tmp_path / "pocket" / "config.json").read_text())["quantization"]["bits"] == 8
    shutil.rmtree(tmp_path / "pocket")


def test_convert_passes_errors_on(run, tmp_path):
    result = run("convert", "pocket", str(tmp_path))
    assert result.exit_code == 2
    assert "exists already" in result.stderr


@pytest.mark.parametrize("name", sorted(models.commands))
def test_every_command_has_help_and_an_example(name):
    command = models.commands[name]
    assert command.help
    assert f"ltx models {name}" in command.epilog
    assert all(option.help for option in command.params if isinstance(option, click.Option))
