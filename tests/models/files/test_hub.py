"""Test downloads by the real hub client from a hub on loopback, by the command, in processes of their own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ltx_models.errors import CheckpointError, DownloadError
from ltx_models.families.variants import VARIANTS, find_variant
from ltx_models.files.hub import download
from ltx_models.files.model_files import cache_folder, find_files, missing_parts
from tests.stand_in_hub import StandInHub, sha256

DISTILLED = "ltxv-2b-0.9.8-distilled-fp8.safetensors"
SPECIFIED = "Acelogic/ltx-video-2b-distilled-v0.9.7-fp8-mlx"
OFFICIAL = "Lightricks/LTX-Video"
HALF_T5, WHOLE_T5 = "PixArt-alpha/PixArt-XL-2-512x512", "PixArt-alpha/PixArt-XL-2-1024-MS"
CLIENT_CHUNK = 10 * 2**20
"""The hub client writes what it receives in pieces of this size."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def safetensors(size: int, seed: int = 0) -> bytes:
    """Return a whole file of one tensor."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)


SHARD = "model.fp16-00001-of-00002.safetensors"
T5_INDEX = json.dumps({"weight_map": {"a": SHARD, "b": SHARD.replace("00001-of", "00002-of")}}).encode()


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    hub = StandInHub(
        {
            OFFICIAL: {DISTILLED: safetensors(25 * 10**6), "another.safetensors": b"not for us"},
            HALF_T5: {
                "text_encoder/config.json": b"{}",
                "text_encoder/model.safetensors.index.fp16.json": T5_INDEX,
                f"text_encoder/{SHARD}": safetensors(3000, 1),
                f"text_encoder/{SHARD.replace('00001-of', '00002-of')}": safetensors(2000, 2),
            },
            WHOLE_T5: {"tokenizer/spiece.model": b"a tokenizer"},
        }
    )
    yield hub
    hub.close()


@pytest.fixture
def run(hub: StandInHub, tmp_path: Path) -> Run:
    """Run the command, with a home and a cache of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LTX_", "HUGGING"))}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-m", "ltx_client", "models", *arguments]
        return subprocess.run(
            command, env=kept | settings | environment, capture_output=True, text=True, check=False, timeout=120
        )

    return run


def served(hub: StandInHub, name: str) -> list[tuple[int, int]]:
    return [(one.start, one.sent) for one in hub.served if one.path == name and one.method == "GET"]


@pytest.mark.lane("models")
def test_a_download_falls_back_is_found_and_is_done_once(hub: StandInHub, run: Run, tmp_path: Path) -> None:
    first = run("download", "distilledFP8")
    assert first.returncode == 0, first.stderr
    assert f"checkpoint: {OFFICIAL}, 0.03 GB ({SPECIFIED}: no such repository)" in first.stderr
    assert f"text encoder: {HALF_T5}" in first.stderr
    checkpoint, text_encoder, tokenizer = map(Path, first.stdout.split())
    assert checkpoint.read_bytes() == hub.repositories[OFFICIAL][DISTILLED]
    assert sorted(path.name for path in text_encoder.iterdir()) == sorted(
        Path(name).name for name in hub.repositories[HALF_T5]
    )
    assert tokenizer.read_bytes() == b"a tokenizer"
    assert not list((tmp_path / "hf").rglob("*.part"))
    assert not [one for one in hub.served if one.path == "another.safetensors"]
    requests = len(hub.served)
    assert run("download", "distilled-fp8").stdout == first.stdout
    assert len(hub.served) == requests

    offline = run("download", "distilled-fp8", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline.stdout == first.stdout
    listing = json.loads(run("list", "--json").stdout)
    assert {row["name"]: row["missing"] for row in listing}["distilled-fp8"] == []


@pytest.mark.lane("models")
def test_a_broken_download_goes_on_in_the_next_process(hub: StandInHub, run: Run, tmp_path: Path) -> None:
    hub.cut[DISTILLED] = 15 * 10**6
    broken = run("download", "distilled-fp8")
    assert broken.returncode == 69
    assert "continues where this one stopped" in broken.stderr
    assert "Traceback" not in broken.stderr
    size = len(hub.repositories[OFFICIAL][DISTILLED])
    assert served(hub, DISTILLED) == [(0, 15 * 10**6)]
    assert "not here" in run("verify", "distilled-fp8").stderr

    hub.mend()
    again = run("download", "distilled-fp8")
    assert again.returncode == 0, again.stderr
    assert served(hub, DISTILLED)[1:] == [(CLIENT_CHUNK, size - CLIENT_CHUNK)]
    assert Path(again.stdout.split()[0]).read_bytes() == hub.repositories[OFFICIAL][DISTILLED]


def test_a_wrong_checksum_is_refused_and_leaves_nothing(hub: StandInHub, run: Run, tmp_path: Path) -> None:
    hub.corrupt.add(DISTILLED)
    wrong = run("download", "distilled-fp8")
    assert wrong.returncode == 2
    assert f"instead of {sha256(hub.repositories[OFFICIAL][DISTILLED])}; it was deleted" in wrong.stderr
    size = len(hub.repositories[OFFICIAL][DISTILLED])
    assert [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.stat().st_size >= size] == []
    hub.mend()
    assert run("download", "distilled-fp8").returncode == 0
    assert served(hub, DISTILLED) == [(0, size), (0, size)]


@pytest.mark.lane("models")
def test_verify_finds_a_damaged_file(hub: StandInHub, run: Run) -> None:
    checkpoint = Path(run("download", "distilled-fp8").stdout.split()[0])
    good = run("verify", "distilled-fp8")
    assert good.returncode == 0
    assert good.stdout.count(": good") == 6
    damaged = bytearray(checkpoint.read_bytes())
    damaged[-1] ^= 1
    checkpoint.resolve().write_bytes(damaged)
    bad = run("verify", "distilled-fp8")
    assert bad.returncode == 1
    assert f"{checkpoint}: its checksum is" in bad.stdout
    assert "1 file is damaged" in bad.stderr


@pytest.mark.lane("models")
def test_a_models_folder_takes_the_place_of_the_cache(hub: StandInHub, run: Run, tmp_path: Path) -> None:
    share = tmp_path / "share"
    done = run("download", "distilled-fp8", LTX_MODELS_DIR=str(share))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "hf" / "hub").exists()
    assert (share / OFFICIAL / DISTILLED).read_bytes() == hub.repositories[OFFICIAL][DISTILLED]
    for folder in (share / OFFICIAL, share / HALF_T5):
        subprocess.run(["sha256sum", "-c", "--status", "SHA256SUMS"], cwd=folder, check=True)
    assert run("verify", "distilled-fp8", LTX_MODELS_DIR=str(share)).stdout.count(": good") == 6
    (share / OFFICIAL / DISTILLED).write_bytes(safetensors(100, 9))
    assert run("verify", "distilled-fp8", LTX_MODELS_DIR=str(share)).returncode == 1
    (share / OFFICIAL / "SHA256SUMS").unlink()
    assert run("verify", "distilled-fp8", LTX_MODELS_DIR=str(share)).returncode == 0


@pytest.mark.lane("models")
def test_tokens_are_sent(hub: StandInHub, run: Run) -> None:
    assert run("download", "distilled-fp8", HF_TOKEN="hf_secret").returncode == 0
    assert {one.authorization for one in hub.served} == {"Bearer hf_secret"}


@pytest.mark.lane("models")
def test_offline_with_nothing_here(run: Run) -> None:
    refused = run("download", "distilled-fp8", HF_HUB_OFFLINE="1")
    assert refused.returncode == 69
    assert "HF_HUB_OFFLINE is set" in refused.stderr


@pytest.mark.lane("models")
def test_a_hub_that_is_not_there(run: Run) -> None:
    refused = run("download", "distilled-fp8", HF_ENDPOINT="http://127.0.0.1:9")
    assert refused.returncode == 69
    assert "http://127.0.0.1:9 does not answer" in refused.stderr


@pytest.mark.lane("models")
def test_nothing_on_the_hub(hub: StandInHub, run: Run) -> None:
    del hub.repositories[OFFICIAL]
    refused = run("download", "distilled-fp8")
    assert refused.returncode == 2
    assert "the checkpoint is not on the hub" in refused.stderr


@pytest.mark.lane("models")
def test_a_disk_that_is_too_small(hub: StandInHub, run: Run) -> None:
    hub.sizes[DISTILLED] = 10**16
    refused = run("download", "distilled-fp8")
    assert refused.returncode == 2
    assert "the download needs 10000000.0 GB" in refused.stderr
    assert hub.served == []


@pytest.mark.lane("models")
def test_an_incomplete_text_encoder_is_not_here(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shard = Path(run("download", "distilled-fp8").stdout.split()[1]) / SHARD
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert missing_parts(find_variant("distilled-fp8")) == []
    shard.unlink()
    assert missing_parts(find_variant("distilled-fp8")) == ["text encoder"]


@pytest.mark.parametrize(
    "name", [row.name for row in VARIANTS.values() if not isinstance(row.files["checkpoint"], str)]
)
def test_files_that_are_not_here_name_the_command(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=f"ltx models download {name}$"):
        find_files(VARIANTS[name])


def test_a_converted_folder_takes_the_place_of_its_variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LTX_MODELS_DIR", str(tmp_path))
    for name in ("transformer.safetensors", "text_encoder/config.json", "tokenizer/spiece.model"):
        (tmp_path / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / name).touch()
    files = find_files(VARIANTS["dev"])
    assert files["checkpoint"] == tmp_path / "dev"
    assert files["text_encoder"] == tmp_path / "dev" / "text_encoder"


def test_the_cache_is_where_the_client_has_it() -> None:
    from huggingface_hub import constants

    assert cache_folder() == Path(constants.HF_HUB_CACHE)


def test_without_the_client_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install 'ltx-farm\[worker\]'"):
        download(VARIANTS["dev"])


@pytest.mark.lane("models")
def test_progress_is_of_all_files_together(run: Run) -> None:
    lines = run("download", "distilled-fp8").stderr.splitlines()
    shown = [line for line in lines if " of 0.03 GB: " in line]
    assert 2 <= len(shown) <= 20
    assert shown[-1].startswith("0.03 of 0.03 GB")


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("socks5://127.0.0.1:1", "a SOCKS proxy .ALL_PROXY or the like., which needs one more package: pip install"),
        ("socks5h://ann:hidden@proxy:1", "pip install socksio"),
        ("socks4://127.0.0.1:1", "the proxy .* is invalid; use http://HOST:PORT or socks5://HOST:PORT"),
        ("http://ann:hidden@127.0.0.1:port", "the proxy .* is invalid"),
        ("://", "the proxy .* is invalid"),
    ],
)
@pytest.mark.parametrize("variable", ["ALL_PROXY", "https_proxy"])
def test_a_proxy_that_cannot_be_used(
    variable: str, proxy: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)  # as if it were not installed
    monkeypatch.setenv(variable, proxy)
    monkeypatch.setenv("LTX_MODELS_DIR", str(tmp_path))
    with pytest.raises(DownloadError, match=words) as raised:
        download(VARIANTS["distilled"])
    assert "hidden" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("token", ["hf_ü", "‘hf_hidden’"])
def test_a_token_that_cannot_be_sent(token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("LTX_MODELS_DIR", str(tmp_path))
    with pytest.raises(DownloadError, match=r"the hub's token .HF_TOKEN, .* copy it again") as raised:
        download(VARIANTS["distilled"])
    assert token not in str(raised.value)


@pytest.mark.lane("models")
@pytest.mark.parametrize("endpoint", ["", "hf-mirror.com", "htps://hf-mirror.com"])
def test_an_endpoint_that_is_no_url(endpoint: str, run: Run) -> None:
    result = run("download", "distilled", HF_ENDPOINT=endpoint)
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr
        == "Error: HF_ENDPOINT is invalid: it must begin with http:// or https://, as in https://huggingface.co\n"
    )


@pytest.mark.lane("models")
def test_a_damaged_reference_in_the_cache_is_passed_over(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "hf" / "hub" / f"models--{OFFICIAL.replace('/', '--')}"
    for name in ("refs/main", f"snapshots/1/{DISTILLED}"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"\xff\xfe")
    result = run("list", "--json")
    listed = {row["name"]: row["missing"] for row in json.loads(result.stdout)}
    assert "checkpoint" not in listed["distilled-fp8"]


@pytest.mark.lane("models")
@pytest.mark.parametrize("index", [json.dumps({"weight_map": {"a": "x" * 300}}), "[" * 100_000, "\0"])
def test_an_index_that_cannot_be_followed_is_no_traceback(index: str, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "models" / HALF_T5 / "text_encoder"
    folder.mkdir(parents=True)
    for name, text in (("config.json", "{}"), (SHARD, ""), ("model.safetensors.index.fp16.json", index)):
        (folder / name).write_text(text)
    for models in (tmp_path / "models", tmp_path / ("x" * 300)):
        result = run("list", "--json", LTX_MODELS_DIR=str(models))
        assert (result.returncode, result.stderr) == (0, "")
