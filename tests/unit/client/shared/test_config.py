"""Test the configuration file: which value wins, what a broken one says, and that no password is ever shown."""

import contextlib
import json
import os
import stat

import keyring
import keyring.backend
import keyring.errors
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ltx_client.cli import main
from ltx_client.protocol.redaction import shown_url
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.config import ConfigError, parse
from ltx_client.shared.passwords import with_password
from ltx_client.shared.settings import FarmSettings

STUDIO = """\
# ours
farm = "studio"

[farms.studio]
broker_url = "redis://ann:hidden@broker:6379/0"  # upstairs
storage_url = "s3://renders"
defaults = { priority = 4 }

[farms.attic]
broker_url = "redis://attic:6379/0"
namespace = "attic:"
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    for name in ("LTX_FARM", "LTX_BROKER_URL", "LTX_STORAGE_URL", "LTX_NAMESPACE", "LTX_HOME"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "config.toml"
    monkeypatch.setenv("LTX_CONFIG", str(path))
    return path


@pytest.fixture
def studio(path):
    path.write_text(STUDIO)
    return path


def ltx(*arguments, code=0, **options):
    done = CliRunner().invoke(main, arguments, **options)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def shown(*arguments):
    values = json.loads(ltx(*arguments, "config", "show", "--json").stdout)["values"]
    return {key: (row["value"], row["from"]) for key, row in values.items()}


def test_the_environment_goes_over_the_file_and_an_option_over_both(studio, monkeypatch):
    assert shown()["broker_url"] == ("redis://ann:***@broker:6379/0", "file")
    monkeypatch.setenv("LTX_BROKER_URL", "redis://other:6379/1")
    monkeypatch.setenv("LTX_STORAGE_URL", "/elsewhere")
    assert shown()["broker_url"] == ("redis://other:6379/1", "LTX_BROKER_URL")
    assert FarmSettings().broker_url.get_secret_value() == "redis://other:6379/1"
    attic = shown("--farm", "attic")
    assert attic["broker_url"] == ("redis://attic:6379/0", "file")
    assert attic["namespace"] == ("attic:", "file")
    assert attic["storage_url"] == ("", "default"), "the environment's storage is not that farm's"
    assert shown("--farm", "local")["broker_url"] == ("", "default")
    assert shown()["broker_url"][1] == "LTX_BROKER_URL", "an option lasts as long as its command"


def test_a_farm_is_named_by_the_environment_too(studio, monkeypatch):
    monkeypatch.setenv("LTX_FARM", "attic")
    assert FarmSettings().namespace == "attic:"
    monkeypatch.setenv("LTX_FARM", "cellar")
    refused = ltx("jobs", code=2)
    assert "no farm 'cellar'" in refused.stderr
    assert "studio, attic, local" in refused.stderr


BROKEN = {
    "no TOML": ('farm = "a"\n[farms.a\n', "line 2: "),
    "unended": ('farm = "a', "line 1: "),
    "unknown key": ('[farms.a]\nnamespace = "x:"\nbroker = "x"\n', "line 3: farms.a.broker is unknown"),
    "wrong type": (
        "[farms.a]\n\nstorage_url = 3\n",
        "line 3: farms.a.storage_url is invalid; it must be a text in quotes",
    ),
    "out of range": ("[farms.a.defaults]\nvariant = 'dev'\npriority = 10\n", "line 3: farms.a.defaults.priority"),
    "no table": ("farms = 3\n", "line 1: farms is invalid; it must be a table"),
    "a secret": (
        '[farms.a]\nbroker_url = ["hidden"]\n',
        "line 2: farms.a.broker_url is invalid; it must be a text in quotes",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence_with_its_line(path, case):
    text, words = BROKEN[case]
    path.write_text(text)
    refused = ltx("jobs", code=2)
    assert f"{path}, {words}" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert "hidden" not in refused.stderr
    assert ltx("config", "path").stdout.strip() == str(path)


def test_a_file_that_is_no_text(path):
    path.write_bytes(b"\xff\xfe farm")
    assert "it is not UTF-8" in ltx("jobs", code=2).stderr


@given(st.one_of(st.text(), st.sampled_from([text for text, _ in BROKEN.values()]), st.text("[]{}=.\"'\n abc3")))
def test_no_text_makes_the_reader_fail_otherwise(tmp_path_factory, text):
    with contextlib.suppress(ConfigError):
        parse(text, tmp_path_factory.getbasetemp() / "c.toml")


def test_set_keeps_comments_and_is_read_back(studio):
    ltx("config", "set", "storage_url", "/Volumes/farm")
    ltx("--farm", "cellar", "config", "set", "broker_url", "redis://cellar")
    ltx("--farm", "cellar", "config", "set", "defaults.variant", "dev")
    ltx("config", "set", "farm", "cellar")
    text = studio.read_text()
    assert text.startswith("# ours\n")
    assert "# upstairs" in text
    assert studio.stat().st_mode & 0o777 == 0o600
    assert shown()["broker_url"] == ("redis://cellar:6379/0", "file")
    assert shown()["defaults.variant"] == ("dev", "file")
    assert shown("--farm", "studio")["storage_url"] == ("/Volumes/farm", "file")
    ltx("--farm", "studio", "config", "set", "storage_url", "")
    assert shown("--farm", "studio")["storage_url"] == ("", "default")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("broker_url", "http://ann:hidden@x"), "must be redis://"),
        (("defaults.priority", "11"), "defaults.priority is 11; it must be a whole number from 0 to 9"),
        (("farm", "cellar"), "no farm 'cellar'"),
        (("storage_url",), "the value is missing"),
        (("broker_password", "hidden"), "on a command line is visible to others"),
    ],
)
def test_set_refuses_what_cannot_be(studio, arguments, words):
    refused = ltx("config", "set", *arguments, code=2)
    assert words in refused.stderr
    assert "hidden" not in refused.stderr
    assert studio.read_text() == STUDIO


def test_set_says_which_farm_it_needs(path):
    assert "ltx --farm NAME" in ltx("config", "set", "storage_url", "/x", code=2).stderr


def test_a_password_in_a_file(studio, monkeypatch):
    ltx("--farm", "attic", "config", "set", "broker_password", input="pass/word@1\n")
    secret = studio.with_name("attic.password")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert "pass/word" not in studio.read_text()
    monkeypatch.setenv("LTX_FARM", "attic")
    assert FarmSettings().broker_url.get_secret_value() == "redis://:pass%2Fword%401@attic:6379/0"
    assert shown()["broker_url"] == ("redis://:***@attic:6379/0", "file")
    secret.unlink()
    refused = ltx("jobs", code=2)
    assert f"cannot be read from {secret}: No such file" in refused.stderr


class Keychain(keyring.backend.KeyringBackend):
    priority = 1

    def __init__(self):
        super().__init__()
        self.held = {}

    def get_password(self, service, username):
        return self.held.get((service, username))

    def set_password(self, service, username, password):
        self.held[service, username] = password

    def delete_password(self, service, username):
        raise keyring.errors.PasswordDeleteError


def test_a_password_in_the_keychain(studio, monkeypatch):
    before = keyring.get_keyring()
    keyring.set_keyring(Keychain())
    try:
        ltx("--farm", "attic", "config", "set", "broker_password", "--keyring", input="pass word\n")
        monkeypatch.setenv("LTX_FARM", "attic")
        assert FarmSettings().broker_url.get_secret_value() == "redis://:pass%20word@attic:6379/0"
        keyring.set_keyring(Keychain())
        assert "has no broker password for 'attic'" in ltx("jobs", code=2).stderr
    finally:
        keyring.set_keyring(before)
    assert not list(studio.parent.glob("*.password"))
    assert "pass word" not in studio.read_text()


def test_a_password_file_that_the_environment_names(path, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("s3cret\nnot this\n")
    monkeypatch.setenv("LTX_BROKER_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("LTX_BROKER_URL", "rediss://ann@broker/0")
    assert FarmSettings().broker_url.get_secret_value().startswith("rediss://ann:s3cret@broker:6379/0?")
    monkeypatch.setenv("LTX_BROKER_URL", "rediss://ann:own@broker/0")
    assert FarmSettings().broker_url.get_secret_value().startswith("rediss://ann:own@broker:6379/0?")


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("redis://ann:hidden@h:1/0?password=hidden", "redis://ann:***@h:1/0?***"),
        ("redis://ann@h", "redis://ann@h"),
        ("/Volumes/farm", "/Volumes/farm"),
        ("s3://key:hidden@bucket/x", "s3://***@bucket/x"),
        ("redis://[::1", "redis://***"),
    ],
)
def test_what_is_shown_of_a_url(url, safe):
    assert shown_url(url) == safe


def test_a_url_of_a_socket_takes_a_password():
    assert with_password(Broker.parse("unix:///run/r.sock?db=1"), lambda: "pw").url == "unix://:pw@/run/r.sock?db=1"


def test_defaults_of_a_farm_stand_in_for_options(studio, monkeypatch, tmp_path):
    from ltx_client.terminal.arguments.config_changes import default_map

    assert default_map()["submit"] == {"priority": 4}
    from ltx_client.commands.jobs import submit

    context = main.make_context("ltx", ["submit", "x"], resilient_parsing=True)
    context.default_map = default_map()
    sub = submit.command.make_context("submit", ["x"], parent=context)
    assert sub.params["priority"] == 4
    sub = submit.command.make_context("submit", ["x", "--priority", "1"], parent=context)
    assert sub.params["priority"] == 1


def test_the_file_is_written_through_links(path, tmp_path):
    (tmp_path / "dotfiles").mkdir()
    path.symlink_to("dotfiles/ltx.toml")
    ltx("--farm", "studio", "config", "set", "storage_url", "/renders")
    assert path.is_symlink()
    assert "/renders" in (tmp_path / "dotfiles/ltx.toml").read_text()


@pytest.mark.parametrize(
    "kind",
    [
        "a loop of links",
        *(pytest.param(kind, marks=pytest.mark.lane("machine")) for kind in ("a device", "below a device")),
    ],
)
def test_what_is_no_file_is_not_replaced_by_one(path, tmp_path, monkeypatch, kind):
    if kind == "a loop of links":
        path.symlink_to(path.name)
    else:
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except OSError:
            pytest.skip("only root makes devices")
    before = path.lstat().st_mode
    if kind == "below a device":
        monkeypatch.setenv("LTX_CONFIG", str(path / "config.toml"))
    refused = ltx("--farm", "studio", "config", "set", "storage_url", "/renders", code=2)
    assert len(refused.stderr.splitlines()) == 1
    assert path.lstat().st_mode == before
    assert list(tmp_path.iterdir()) == [path]
