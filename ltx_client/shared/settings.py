"""Read the settings that clients and workers share: the environment overrides the configuration file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ltx_client.protocol.names import DEFAULT_NAMESPACE, Names
from ltx_client.protocol.redaction import hide_environment_secrets, hide_url_secrets
from ltx_client.protocol.text import shown
from ltx_client.protocol.validation import check_name
from ltx_client.shared.broker.tls import check_authority, check_files, with_tls
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.config import chosen_farm, load
from ltx_client.shared.own_files import expanded
from ltx_client.shared.passwords import password_from_file, password_from_keyring, with_password
from ltx_client.shared.setting_errors import meant, reason
from ltx_client.shared.storage.urls import check_storage_url

__all__ = ["FarmSettings", "HomeSettings", "broker_address", "check_broker_url", "why_invalid"]

ALIKE = 0.85
"""How similar a name must be to a setting's to be considered a mistyped one."""
_OTHERS = {f"LTX_{name}" for name in ("FARM", "CONFIG", "MODELS_DIR", "NOTIFY_SECRET", "NOTIFY_SECRET_FILE")}
"""Variables that are read elsewhere."""


class HomeSettings(BaseModel):
    """The folder of this machine's own files, for processes that need no other setting. Raises ConfigError.

    What is given goes before the environment, and that before the configuration file. pydantic-settings would read the
    environment as these lines do, and takes as long to import as click, in each command.
    """

    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, extra="ignore", allow_inf_nan=False, validate_default=True
    )

    home: Path = Field(
        default=Path("~/.ltx-farm"),
        description="The folder of this machine's own files: the embedded farm, the worker's identity, spool and log.",
    )

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**_in_file(), **_in_environment(type(self).model_fields), **given})

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        if value == Path():
            raise ValueError("is empty; it must be a whole path, such as ~/.ltx-farm, or not be set")
        home = expanded(value)
        if not home.is_absolute():
            raise ValueError("is relative to the current folder; it must be a whole path, such as ~/.ltx-farm")
        if not str(home).isprintable():
            raise ValueError("has a control character in it; it must be a folder such as ~/.ltx-farm")
        if "::" in str(home):  # fsspec joins two URLs by it, and an embedded farm's videos are in this folder
            raise ValueError("has two colons in a row in it; it must be a folder such as ~/.ltx-farm")
        return home


class FarmSettings(HomeSettings):
    """A farm's settings: LTX_BROKER_URL, LTX_STORAGE_URL and so on, then the configuration file's farm of LTX_FARM.

    Raises:
        ConfigError: The configuration file is invalid.
    """

    model_config = ConfigDict(extra="forbid")

    broker_ca: Path | None = Field(
        default=None,
        description="The certificate of the authority that signed the broker's, for `rediss://`; unset: the system's.",
    )
    broker_password_file: Path | None = Field(
        default=None,
        description="A file whose first line is the broker's password, where the URL has none: as it is, in UTF-8.",
    )
    broker_password_keyring: bool = Field(
        default=False,
        description="Whether the broker's password is stored in this user's keychain, under the farm's name.",
    )
    broker_sentinel_password_file: Path | None = Field(
        default=None,
        description="The same as `LTX_BROKER_PASSWORD_FILE`, for the password that the sentinels themselves ask for.",
    )
    broker_url: SecretStr | None = Field(  # after what is put into it
        default=None,
        description="`redis://[USER:PASSWORD@]HOST:PORT/DB`, `rediss://` for TLS, `unix:///PATH?db=DB`, or"
        " `sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT,…/NAME/DB`; unset: this machine alone.",
    )
    storage_url: str | None = Field(
        default=None,
        description="Where finished videos are: a folder's whole path, or a URL such as `s3://bucket/folder`; made by"
        " `ltx storage init`.",
    )
    namespace: str = Field(
        default=DEFAULT_NAMESPACE, description="What the farm's keys in Redis begin with; one broker can serve several."
    )

    complete: ClassVar[str] = ""
    """The prefix of the variables all of which are known to these settings."""

    @model_validator(mode="before")
    @classmethod
    def _check_environment(cls, data: dict[str, Any]) -> dict[str, Any]:
        _check_names(os.environ, cls.model_fields, cls.complete)
        return data

    @model_validator(mode="before")
    @classmethod
    def _hide_secrets(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Hide secret values from now on."""
        hide_environment_secrets(os.environ)
        for name in ("broker_url", "storage_url"):
            if isinstance(data.get(name), str):
                hide_url_secrets(data[name])
        return data

    @field_validator("broker_ca", mode="before")
    @classmethod
    def _check_broker_ca(cls, value: str | Path | None) -> Path | None:
        return check_authority(expanded(value).absolute()) if value else None

    @field_validator("broker_password_file", "broker_sentinel_password_file", mode="before")
    @classmethod
    def _check_password_file(cls, value: str | Path | None) -> Path | None:
        return expanded(value) if value else None

    @field_validator("broker_url")
    @classmethod
    def _complete_broker_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Add to the URL what is set elsewhere: passwords, and how the broker is verified."""
        if value is None or not value.get_secret_value():
            return None
        hide_url_secrets(value.get_secret_value())
        broker = check_broker_url(value.get_secret_value())
        if file := info.data.get("broker_password_file"):
            broker = with_password(broker, lambda: password_from_file(file))
        elif info.data.get("broker_password_keyring"):
            broker = with_password(broker, lambda: password_from_keyring(chosen_farm(load())))
        own = info.data.get("broker_sentinel_password_file")
        if own and broker.kind == "sentinel" and not broker.option("sentinel_password"):
            broker = broker.with_options(sentinel_password=password_from_file(own))
        broker = with_tls(broker, info.data.get("broker_ca"))
        hide_url_secrets(broker.url)
        return SecretStr(broker.url)

    @field_validator("storage_url")
    @classmethod
    def _check_storage_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        check_storage_url(value)
        return value

    @field_validator("namespace")
    @classmethod
    def _check_namespace(cls, value: str) -> str:
        if not value:  # else the farm's keys, and Celery's, would be mixed with another program's
            raise ValueError(
                f"is empty; it must be what the farm's keys begin with, as {DEFAULT_NAMESPACE}, or not be set"
            )
        return check_name(value)

    @property
    def names(self) -> Names:
        """Return the farm's key names."""
        return Names(self.namespace)


def _in_file() -> dict[str, Any]:
    """Return what the configuration file says of the farm that is meant. Raises ConfigError."""
    config = load()
    return config.profile(chosen_farm(config)).settings()


def _in_environment(names: Iterable[str]) -> dict[str, str]:
    """Return the settings of these names that are set; a variable's name may be in small letters too."""
    environment = {name.lower(): value for name, value in os.environ.items()}
    return {name: environment[f"ltx_{name}"] for name in names if f"ltx_{name}" in environment}


def check_broker_url(url: str) -> Broker:
    """Return the broker that a URL names.

    Raises:
        ValueError: The URL, or a file that it names, is invalid; the message does not contain the URL.
    """
    broker = Broker.parse(url)
    check_files(broker)
    return broker


def why_invalid(error: ValidationError) -> str:
    """Return what is wrong with settings, in a sentence that names them as the environment does."""
    models = {model.__name__: model for model in _with_subclasses(HomeSettings)}
    fields = models[error.title].model_fields if error.title in models else {}
    sentences = "; ".join(
        "".join(f"LTX_{name}".upper() for name in detail["loc"])
        + reason(detail, fields.get(".".join(map(str, detail["loc"])))).removeprefix("" if detail["loc"] else ": ")
        for detail in error.errors()
    )
    return shown(f"the settings are invalid: {sentences}")


def _with_subclasses(model: type[HomeSettings]) -> Iterator[type[HomeSettings]]:
    yield model
    for subclass in model.__subclasses__():
        yield from _with_subclasses(subclass)


def _check_names(environment: Iterable[str], known: Collection[str], strict: str) -> None:
    """Raise ValueError for a variable with a mistyped name; all variables with the prefix `strict` are known."""
    names = {name.upper() for name in environment}
    known = {f"LTX_{name}".upper() for name in known} | _OTHERS
    for name in sorted(names - known):
        if strict and name.startswith(strict):
            rest = {other.removeprefix(strict): other for other in known - names if other.startswith(strict)}
            near = rest.get(meant(name.removeprefix(strict), rest) or "")
            raise ValueError(f"{name} is not a setting" + (f"; is {near} meant?" if near else "; unset it"))
        near = meant(name, known - names, alike=ALIKE)
        if near and name.startswith("LTX_") and not name.startswith((f"{near}_", "LTX_WORKER_")):
            raise ValueError(f"{name} is not a setting; is {near} meant?")


def broker_address(broker_url: SecretStr) -> str:
    """Return what may be shown of a broker's URL: never user or password."""
    return Broker.parse(broker_url.get_secret_value()).address
