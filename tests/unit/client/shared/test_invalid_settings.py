"""Test every setting, wrong in every way: one sentence with the variable, its value, and what would be right."""

import os
import re

import pytest
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError

from ltx_client.cli import main
from ltx_client.shared.config import Config, ConfigError, Defaults, Profile, parse
from ltx_client.shared.setting_errors import is_shown, must_be
from ltx_client.shared.settings import FarmSettings, why_invalid
from ltx_worker.cli import main as worker_main
from ltx_worker.settings import WorkerSettings

OF_PYDANTIC = re.compile(
    r"[Ii]nput should|valid (number|integer|string)|pydantic|errors\.|https://err|Value error|type="
)
NUMBERS = {
    name: field
    for name, field in WorkerSettings.model_fields.items()
    if is_shown(field) and field.annotation is not bool
}
FLAGS = {name: field for name, field in WorkerSettings.model_fields.items() if field.annotation is bool}
TEXTS = [name for name in WorkerSettings.model_fields if name not in NUMBERS and name not in FLAGS]
WRONG_NUMBERS = (
    "0.5GB",
    "ten",
    "",
    " ",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1,5",
    "0x10",
    "9" * 30,
    "true",
    "\ud83d",
)
WRONG_FLAGS = ("maybe", "", "2", "nein")
MOST_LIKE = {"LTX_WORKER_MEMROY_GB": "LTX_WORKER_MEMORY_GB", "LTX_WORKER_MEMORY": "LTX_WORKER_MEMORY_GB"}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in [name for name in os.environ if name.startswith("LTX_") and name != "LTX_CONFIG"]:
        monkeypatch.delenv(name)


def sentence(settings=WorkerSettings):
    with pytest.raises(ValidationError) as caught:
        settings()
    said = why_invalid(caught.value)
    assert not OF_PYDANTIC.search(said), said
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", [*NUMBERS, *FLAGS])
def test_a_wrong_number_or_flag_is_named_with_what_would_be_right(name, monkeypatch):
    variable = f"LTX_{name.upper()}"
    field = WorkerSettings.model_fields[name]
    for value in WRONG_FLAGS if name in FLAGS else WRONG_NUMBERS:
        monkeypatch.setenv(variable, os.fsdecode(os.fsencode("é")) if value == "\ud83d" else value)
        said = sentence()
        assert f"{variable} is " in said, said
        assert ("empty" if not value else value[:5] if value.isascii() else "é") in said
        assert f"it must be {must_be(field)}" in said
        assert len(said) < 300


@pytest.mark.parametrize("name", NUMBERS)
def test_what_a_number_must_be_says_its_kind_and_unit(name):
    words = must_be(WorkerSettings.model_fields[name])
    assert words.startswith(("a number of ", "a whole number")), words
    assert re.search(r"(above|from) \d", words), words
    assert name.endswith("_port") or " of " in words, f"{name} has no unit"


def test_no_text_breaks_a_setting_or_is_quoted(monkeypatch):
    for name in TEXTS:
        variable = f"LTX_{name.upper()}"
        for value in ("hidden\x1b[2Jhidden", "hidden" * 5000, "", "http://a:hidden@b?c"):
            with monkeypatch.context() as patch:
                patch.setenv(variable, value)
                try:
                    WorkerSettings()
                except ValidationError as error:
                    said = why_invalid(error)
                    assert variable in said and not OF_PYDANTIC.search(said), said
                    assert name in ("worker_hours", "home", "broker_ca", "broker_password_file") or "hidden" not in said
                    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("name", "value", "settings", "said"),
    [
        ("LTX_WORKER_MEMROY_GB", "4", WorkerSettings, "is LTX_WORKER_MEMORY_GB meant?"),
        ("LTX_WORKER_METRIC_PORT", "9000", WorkerSettings, "is LTX_WORKER_METRICS_PORT meant?"),
        ("LTX_WORKER_XYZZY", "secret-x", WorkerSettings, "LTX_WORKER_XYZZY is not a setting; unset it"),
        ("LTX_BROKR_URL", "redis://x", FarmSettings, "is LTX_BROKER_URL meant?"),
        ("LTX_STORAGEURL", "/x", FarmSettings, "is LTX_STORAGE_URL meant?"),
        ("LTX_STORAGE_URl", "/x", FarmSettings, ""),  # in whatever case
        ("LTX_BROKER_URL_OLD", "redis://x", FarmSettings, ""),  # kept on purpose
        ("LTX_WORKER_MEMROY_GB", "4", FarmSettings, ""),  # a client's environment may be of another version
        ("LTX_SOMETHING_ELSE", "4", WorkerSettings, ""),
        ("LTX_WORKER_RENEW_EVERY", "60", WorkerSettings, "use less than LTX_WORKER_LEASE, 60"),
        ("LTX_HOME", "", FarmSettings, "LTX_HOME: is empty; it must be a whole path"),
        ("LTX_HOME", "~nobody-of-this-name/x", FarmSettings, "'~nobody-of-this-name' is not a folder of this machine"),
        ("LTX_HOME", "here/x", FarmSettings, "is relative to the current folder"),
    ],
)
def test_names_and_what_settings_are_to_each_other(monkeypatch, name, value, settings, said):
    monkeypatch.setenv(name, value)
    if not said:
        assert settings()
        return
    assert said in (words := sentence(settings))
    assert "secret-x" not in words


@pytest.mark.parametrize(("runner", "command"), [(main, "jobs"), (worker_main, "start")])
def test_commands_say_it_in_a_sentence(monkeypatch, runner, command):
    monkeypatch.setenv("LTX_BROKER_URLL", "redis://127.0.0.1:1/0")
    done = CliRunner().invoke(runner, [command])
    assert done.exit_code == 2 and "is LTX_BROKER_URL meant?" in done.stderr
    assert "Traceback" not in done.output


def of_file(model, prefix):
    """Return a line with a value of a wrong kind for each setting that a configuration file has."""
    for name, field in model.model_fields.items():
        if name not in ("farms", "defaults"):
            yield f"{prefix}{name}", field


@pytest.mark.parametrize(
    ("head", "name", "field"),
    [
        *[("", *pair) for pair in of_file(Config, "")],
        *[("[farms.a]\n", *pair) for pair in of_file(Profile, "")],
        *[("[farms.a.defaults]\n", *pair) for pair in of_file(Defaults, "")],
    ],
)
def test_a_wrong_value_in_the_file_is_one_sentence_too(tmp_path, head, name, field):
    for value in ("[1]", "-3", "1e3", "{ a = 'hidden' }", "1979-05-27"):
        with pytest.raises(ConfigError) as caught:
            parse(f"{head}{name} = {value}\n", tmp_path / "config.toml")
        said = str(caught.value)
        assert f"{name} is " in said and "it must be " in said, said
        assert not OF_PYDANTIC.search(said) and "hidden" not in said
    with pytest.raises(ConfigError, match=f"{name}x is unknown; is {name} meant"):
        parse(f"{head}{name}x = 'a'\n", tmp_path / "config.toml")


def test_an_empty_namespace_is_refused(monkeypatch):
    """The farm's keys would be among another program's."""
    monkeypatch.setenv("LTX_NAMESPACE", "")
    for runner, command in ((main, "jobs"), (worker_main, "start")):
        done = CliRunner().invoke(runner, [command])
        assert done.exit_code == 2
        assert "LTX_NAMESPACE: is empty; it must be what the farm's keys begin with" in done.stderr


def test_a_file_with_a_byte_order_mark_is_read(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbffarm = 'a'\n[farms.a]\nnamespace = 'a:'\n")
    monkeypatch.setenv("LTX_CONFIG", str(path))
    assert FarmSettings().namespace == "a:"
    for content, said in ((b"\xff\xfef\0a\0", "it is not UTF-8"), (b"a\0b", "this is not TOML")):
        path.write_bytes(content)
        done = CliRunner().invoke(main, ["jobs"])
        assert done.exit_code == 2 and said in done.stderr


def test_secrets_have_their_own_type():
    assert not is_shown(FarmSettings.model_fields["broker_url"])
    assert SecretStr in FarmSettings.model_fields["broker_url"].annotation.__args__
