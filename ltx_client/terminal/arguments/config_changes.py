"""Change the configuration file, and show the values that follow from it and the environment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import SecretStr

from ltx_client.errors import UsageError
from ltx_client.protocol.redaction import hide_secret, hide_url_secrets, shown_url
from ltx_client.protocol.validation import check_name
from ltx_client.shared.config import ConfigError, Defaults, Profile, chosen_farm, config_path, load, parse
from ltx_client.shared.passwords import SERVICE
from ltx_client.shared.private_files import write_private
from ltx_client.shared.settings import FarmSettings, check_broker_url
from ltx_client.shared.storage.urls import check_storage_url

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

__all__ = ["KEYS", "SECRET", "Row", "default_map", "effective", "store_password", "use_farm", "write"]

SECRET = "broker_password"  # noqa: S105 - the setting's name
SETTINGS = [name for name in Profile.model_fields if name != "defaults"]
DEFAULTS = [f"defaults.{name}" for name in Defaults.model_fields]
KEYS = ["farm", *SETTINGS, *DEFAULTS]
TAKE_DEFAULTS = ("render", "submit", "batch")


class Row(NamedTuple):
    """A value in use, as it may be shown, and its source."""

    key: str
    value: str
    source: str


@contextlib.contextmanager
def use_farm(name: str) -> Iterator[None]:
    """Use the farm with that name while inside, here and in child processes, whatever the environment says."""
    before = dict(os.environ)
    for field in SETTINGS:
        if field != "home":
            os.environ.pop(f"LTX_{field.upper()}", None)
    os.environ["LTX_FARM"] = name
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def default_map() -> dict[str, dict[str, Any]]:
    """Return the option values that the farm in use gives to commands, for click."""
    config = load()
    defaults = config.profile(chosen_farm(config)).defaults.model_dump(exclude_none=True)
    up = {name: value for name, value in defaults.items() if name == "variant"}
    return {**dict.fromkeys(TAKE_DEFAULTS, defaults), "up": up}


def effective() -> list[Row]:
    """Return the values that commands use.

    Raises:
        ConfigError: The configuration file is invalid.
        ValidationError: The environment is invalid.
    """
    config = load()
    profile = config.profile(chosen_farm(config))
    in_file = profile.settings()
    used = FarmSettings()
    rows = []
    for field in SETTINGS:
        source = f"LTX_{field.upper()}" if f"LTX_{field.upper()}" in os.environ else "file" if field in in_file else ""
        rows.append(Row(field, _shown(getattr(used, field)), source or "default"))
    for name, value in profile.defaults.model_dump(exclude_none=True).items():
        shown = shown_url(value, path=False) if name == "notify" else str(value)  # whose path may be a secret
        rows.append(Row(f"defaults.{name}", shown, "file"))
    return rows


def write(farm: str, values: dict[str, str]) -> None:
    """Set values of a farm in the file, and remove the empty ones; comments and order are kept.

    Raises:
        UsageError: A value is invalid; the file is unchanged.
        ConfigError: The file was invalid before; it is unchanged.
    """
    import tomlkit  # only changes of the file need it

    for key, text in values.items():
        try:
            check_name(text)
        except ValueError as error:
            raise UsageError(f"{key} is invalid: {error}") from None
        hide_url_secrets(text, path=key == "defaults.notify")
    path = config_path()
    load()
    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
    for key, text in values.items():
        table, name = _place(document, farm, key)
        if text:
            table[name] = _typed(name, text)
        else:
            table.pop(name, None)
    text = tomlkit.dumps(document)
    try:
        config = parse(text, path)
        if values.get("farm"):
            config.profile(values["farm"])
        if values.get("broker_url"):
            check_broker_url(values["broker_url"])
    except ConfigError as error:
        raise UsageError(str(error).removeprefix(f"{path}, ")) from None
    except ValueError as error:
        raise UsageError(f"broker_url {error}") from None
    _check_storage(values.get("storage_url"))
    _write_private(path, text)


def _write_private(path: Path, text: str) -> None:
    try:
        write_private(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _check_storage(url: str | None) -> None:
    if not url:
        return
    try:
        check_storage_url(url)
    except ValueError as error:
        raise UsageError(f"storage_url {error}") from None
    if Path(url).is_file():
        raise UsageError("storage_url is invalid: it is a file; use a folder, or a URL such as s3://bucket/folder")


def store_password(farm: str, password: str, *, in_keyring: bool) -> str:
    """Store a farm's broker password in the keychain, or in a file that only this user can read.

    Returns:
        Where it is stored.
    """
    hide_secret(password)
    if in_keyring:
        try:
            import keyring
            import keyring.errors
        except ImportError:
            raise UsageError("the keychain needs another package: pip install 'ltx-farm[keyring]'") from None
        try:
            keyring.set_password(SERVICE, farm, password)
        except keyring.errors.KeyringError as error:
            raise UsageError(f"the keychain does not take the password: {error}") from None
        write(farm, {"broker_password_keyring": "true", "broker_password_file": ""})
        return "the keychain"
    path = config_path().with_name(f"{farm}.password")
    _write_private(path, password + "\n")
    write(farm, {"broker_password_file": str(path), "broker_password_keyring": ""})
    return str(path)


def _place(document: TOMLDocument, farm: str, key: str) -> tuple[Any, str]:
    """Return the table that contains a key, creating it if it is missing, and the key's name in it."""
    if key == "farm":
        return document, key
    table: Any = document
    parents = ["farms", farm, *key.split(".")]
    name = parents.pop()
    for depth, parent in enumerate(parents):
        if parent not in table:
            table[parent] = {}
        table = table[parent]
        if not isinstance(table, dict):
            raise UsageError(f"{'.'.join(parents[: depth + 1])} is not a table in {config_path()}")
    return table, name


def _typed(name: str, text: str) -> object:
    if name in ("priority", "checkpoint_every") and text.isdecimal():
        return int(text)
    if name == "broker_password_keyring" and text in ("true", "false"):
        return text == "true"
    return text


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return shown_url(value.get_secret_value())
    return "" if value is None else shown_url(value) if isinstance(value, str) and "://" in value else str(value)
