"""Where clients and workers meet, read from the environment. A worker's own settings extend these."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.connection import parse_url

from ltx_client.protocol.names import DEFAULT_NAMESPACE, Names

__all__ = ["FarmSettings", "broker_address"]


class FarmSettings(BaseSettings):
    """Read from LTX_BROKER_URL, LTX_STORAGE_URL, LTX_NAMESPACE and LTX_HOME.

    broker_url: redis://[USER:PASSWORD@]HOST:PORT/DB, rediss:// for TLS, or unix://PATH.
    storage_url: where results lie: a folder, or any URL that fsspec understands.
    home: this machine's folder for the embedded farm, its files and its identity.
    """

    model_config = SettingsConfigDict(env_prefix="LTX_", frozen=True, hide_input_in_errors=True)

    broker_url: SecretStr | None = None
    storage_url: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    home: Path = Path("~/.ltx-farm")

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        try:
            parse_url(value.get_secret_value())
        except ValueError:
            raise ValueError("must be redis://[USER:PASSWORD@]HOST:PORT/DB, rediss://… or unix://PATH") from None
        return value

    @field_validator("storage_url")
    @classmethod
    def _empty_is_unset(cls, value: str | None) -> str | None:
        return value or None

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def names(self) -> Names:
        """The farm's key names."""
        return Names(self.namespace)


def broker_address(broker_url: SecretStr) -> str:
    """HOST:PORT of a broker URL, or its socket's path: what may be shown. Never user or password."""
    options = parse_url(broker_url.get_secret_value())
    return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")
