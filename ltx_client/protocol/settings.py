"""Where clients and workers meet: the environment over the configuration file. A worker's own settings extend these."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from redis.connection import ConnectionPool, parse_url

from ltx_client.protocol.config import chosen_farm, load
from ltx_client.protocol.fields import check_name
from ltx_client.protocol.invalid import meant, reason
from ltx_client.protocol.names import DEFAULT_NAMESPACE, Names
from ltx_client.protocol.own_files import expanded
from ltx_client.protocol.passwords import password_from_file, password_from_keyring, with_password
from ltx_client.protocol.redaction import know_environment, know_url
from ltx_client.protocol.storage_urls import check_storage_url
from ltx_client.protocol.text import shown
from ltx_client.protocol.tls import check_authority, with_tls

__all__ = ["FarmSettings", "HomeSettings", "broker_address", "check_broker_url", "why_invalid"]

ALIKE = 0.85
"""How much like a setting's name another one must be to be taken for it."""
_OTHERS = {f"LTX_{name}" for name in ("FARM", "CONFIG", "MODELS_DIR", "NOTIFY_SECRET", "NOTIFY_SECRET_FILE")}
"""Variables that are read elsewhere."""


class HomeSettings(BaseSettings):
    """Where this machine's own files are, for processes that need to know no more of the farm. Raises ConfigError.

    home: this machine's folder for the embedded farm, its files and its identity.
    """

    model_config = SettingsConfigDict(
        env_prefix="LTX_", frozen=True, hide_input_in_errors=True, extra="ignore", allow_inf_nan=False
    )

    home: Path = Path("~/.ltx-farm")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings passes it by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The first that has a value wins."""
        return init_settings, env_settings, _ProfileSource(settings_cls)

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
        if "::" in str(home):  # which joins two URLs to one for fsspec, and an embedded farm's videos lie in there
            raise ValueError("has two colons in a row in it; it must be a folder such as ~/.ltx-farm")
        return home


class FarmSettings(HomeSettings):
    """Read from LTX_BROKER_URL, LTX_STORAGE_URL and so on, then from the farm that LTX_FARM names in the configuration.

    Raises ConfigError for a configuration file that cannot be used.

    broker_ca: the file of the authority that signed the broker's certificate, for rediss://; unset: the system's own.
    broker_url: redis://[USER:PASSWORD@]HOST:PORT/DB, or rediss:// for TLS.
    broker_password_file: a file whose first line is the password, where the URL has none.
    broker_password_keyring: the password lies in this user's keychain, under the farm's name.
    storage_url: where results lie: a folder, or any URL by which fsspec can write; made by `ltx storage init`.
    """

    model_config = SettingsConfigDict(extra="forbid")

    broker_ca: Path | None = None
    broker_url: SecretStr | None = None
    broker_password_file: Path | None = None
    broker_password_keyring: bool = False
    storage_url: str | None = None
    namespace: str = DEFAULT_NAMESPACE

    complete: ClassVar[str] = ""
    """How the names of those variables begin of which these settings know all."""

    @model_validator(mode="before")
    @classmethod
    def _check_environment(cls, data: dict[str, Any]) -> dict[str, Any]:
        _check_names(os.environ, cls.model_fields, cls.complete)
        return data

    @model_validator(mode="before")
    @classmethod
    def _add_password(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Puts the password into the broker's URL, where it lies elsewhere. What is secret is not shown from now on."""
        know_environment(os.environ)
        for name in ("broker_url", "storage_url"):
            if isinstance(data.get(name), str):
                know_url(data[name])
        url = data.get("broker_url")
        if not isinstance(url, str) or not url:
            return data
        if data.get("broker_password_file"):
            return {**data, "broker_url": with_password(url, lambda: password_from_file(data["broker_password_file"]))}
        if data.get("broker_password_keyring"):
            return {**data, "broker_url": with_password(url, lambda: password_from_keyring(chosen_farm(load())))}
        return data

    @field_validator("broker_ca", mode="before")
    @classmethod
    def _check_broker_ca(cls, value: str | Path | None) -> Path | None:
        return check_authority(expanded(value).absolute()) if value else None

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        know_url(value.get_secret_value())  # with its password, wherever that lay
        check_broker_url(value.get_secret_value())
        return SecretStr(with_tls(value.get_secret_value(), info.data.get("broker_ca")))

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
        return check_name(value)

    @property
    def names(self) -> Names:
        """The farm's key names."""
        return Names(self.namespace)


class _ProfileSource(PydanticBaseSettingsSource):
    """What the configuration file says of the farm that is meant."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Unused: the values come all at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The farm's values. Raises ConfigError."""
        config = load()
        return config.profile(chosen_farm(config)).settings()


def check_broker_url(url: str) -> None:
    """Raises ValueError, without the URL in it, for what redis-py cannot use, or would use as another one."""
    check_name(url)
    _, _, rest = url.partition("://")
    if re.search("[/?#].*@|#", rest):
        raise ValueError("has one of / ? # @ in its user's name, password or path; write them as %2F %3F %23 %40")
    wrong = ValueError("must be redis://[USER:PASSWORD@]HOST:PORT/DB, or rediss://… for TLS")
    if not url.startswith(("redis://", "rediss://")):  # Celery takes no unix://
        raise wrong
    try:
        ConnectionPool.from_url(url).make_connection()  # which connects to nothing yet
    except (TypeError, ValueError):
        raise wrong from None


def why_invalid(error: ValidationError) -> str:
    """Return what is wrong with settings, in a sentence that names them as the environment does."""
    models = {model.__name__: model for model in _with_subclasses(HomeSettings)}
    fields = models[error.title].model_fields if error.title in models else {}
    sentences = "; ".join(
        "".join(f"LTX_{name}".upper() for name in detail["loc"])
        + reason(detail, fields.get(".".join(map(str, detail["loc"])))).removeprefix("" if detail["loc"] else ": ")
        for detail in error.errors()
    )
    return shown(f"the settings are not right: {sentences}")


def _with_subclasses(model: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    yield model
    for subclass in model.__subclasses__():
        yield from _with_subclasses(subclass)


def _check_names(environment: Iterable[str], known: Collection[str], strict: str) -> None:
    """Raise ValueError for a variable whose name is mistyped. strict: how the names begin of which all are known."""
    names = {name.upper() for name in environment}
    known = {f"LTX_{name}".upper() for name in known} | _OTHERS
    for name in sorted(names - known):
        if strict and name.startswith(strict):
            rest = {other.removeprefix(strict): other for other in known - names if other.startswith(strict)}
            near = rest.get(meant(name.removeprefix(strict), rest) or "")
            raise ValueError(f"{name} is no setting" + (f"; is {near} meant?" if near else "; unset it"))
        near = meant(name, known - names, alike=ALIKE)
        if near and name.startswith("LTX_") and not name.startswith((f"{near}_", "LTX_WORKER_")):
            raise ValueError(f"{name} is no setting; is {near} meant?")


def broker_address(broker_url: SecretStr) -> str:
    """HOST:PORT of a broker URL, or its socket's path: what may be shown. Never user or password."""
    options = parse_url(broker_url.get_secret_value())
    return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")
