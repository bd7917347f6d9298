"""Test which texts are a storage's URL: a typing error is refused in a sentence, and nothing is made."""

import re

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from ltx_client.cli import main
from ltx_client.shared.settings import FarmSettings
from ltx_client.shared.storage.store import Storage, StorageError

RIGHT = [
    "/Volumes/farm",
    "/Volumes/farm/",
    "/Volumes/Farm Share/videos",
    "/Volumes/a:b",
    "file:///Volumes/farm",
    "local:///Volumes/farm",
    "s3://bucket",
    "s3://bucket/folder",
    "s3a://bucket/folder",
    "gs://bucket/folder",
    "memory://farm",
    "sftp://host/farm",
    "smb://server/share",
    "simplecache::s3://bucket/folder",
]
WRONG = {
    "s3:/bucket": "two slashes after the colon, such as s3://",
    "s3:bucket": "two slashes after the colon, such as s3://",
    "s3//bucket": "no colon after s3",
    "s3:": "must be a folder such as /Volumes/farm",
    "s3://": "names no bucket",
    "s3:///": "names no bucket",
    "s3:///bucket": "names no bucket",
    "memory://": "names no bucket, host or folder",
    "C:\\farm": "a Windows path",
    "C:/farm": "a Windows path",
    "c:farm": "a Windows path",
    "\\\\server\\share": "a Windows path",
    "//server/share": "begins with two slashes",
    "farm": "relative to the current folder",
    "./farm": "relative to the current folder",
    "../farm": "relative to the current folder",
    ".": "relative to the current folder",
    "Volumes/farm": "relative to the current folder",
    "~": "begins with ~",
    "~/farm": "begins with ~",
    "~ann/farm": "begins with ~",
    "file:/farm": "two slashes after the colon, such as file://",
    "file:farm": "two slashes after the colon, such as file://",
    "file://farm": "from the root on, such as file:///Volumes/farm",
    "file://": "from the root on",
    "file:///": "the root of this machine's disk",
    "/": "the root of this machine's disk",
    "/.": "the root of this machine's disk",
    "/farm/..": "the root of this machine's disk",
    "nosuch://bucket": r"unknown protocol \(nosuch\)",
    "s4://bucket": r"unknown protocol \(s4\)",
    "S3://bucket": r"unknown protocol \(S3\)",
    "http://host/farm": "is http://, where nothing can be stored",
    "https://host/farm": "is https://, where nothing can be stored",
    "data:,hello": "two slashes",
    "zip::s3://bucket/a.zip": "is zip://, where nothing can be stored",
    "nosuch::s3://bucket": r"unknown protocol \(nosuch\)",
    "simplecache::farm": "relative to the current folder",
    "simplecache::": "relative to the current folder",
    " ": "is empty",
    " /Volumes/farm": "begins or ends with a space",
    "/Volumes/farm ": "begins or ends with a space",
    "/Volumes/farm\n": "control character",
    "/Volumes/fa\trm": "control character",
    "/Volumes/fa\x1b[2Jrm": "control character",
}


@pytest.mark.parametrize("url", RIGHT)
def test_what_can_be_a_storage(url):
    assert FarmSettings(storage_url=url).storage_url == url


@pytest.mark.parametrize(("url", "words"), WRONG.items(), ids=map(repr, WRONG))
def test_what_cannot_be_one_is_refused_wherever_it_is_said(url, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match=words):
        FarmSettings(storage_url=url)
    with pytest.raises(StorageError, match=words):
        Storage(url)
    monkeypatch.setenv("LTX_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.delenv("LTX_STORAGE_URL", raising=False)
    for command in (("--farm", "studio", "config", "set", "storage_url", url), ("storage", "init", "--", url)):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2, done.output
        assert re.search(words, done.stderr), done.stderr
        assert done.stderr.count("\n") == 1
    monkeypatch.setenv("LTX_STORAGE_URL", url)
    done = CliRunner().invoke(main, ["storage", "check"])
    assert done.exit_code == 2
    assert "LTX_STORAGE_URL" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_one_is_none_at_all():
    assert FarmSettings(storage_url="").storage_url is None


def test_what_is_refused_shows_no_secret():
    for url in ("s3:/me:hush@bucket", "hush:@bucket", "me:hush@host/farm", "nosuch://me:hush@host"):
        with pytest.raises(StorageError) as raised:
            Storage(url)
        assert "hush" not in str(raised.value)


def test_a_path_to_a_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setenv("LTX_CONFIG", str(tmp_path / "config.toml"))
    done = CliRunner().invoke(main, ["--farm", "studio", "config", "set", "storage_url", str(path)])
    assert (done.exit_code, "is a file" in done.stderr) == (2, True)
    for command in ("init", "check"):
        done = CliRunner().invoke(main, ["storage", command, str(path)])
        assert (done.exit_code, "is a file, not a folder" in done.stderr) == (2, True)
