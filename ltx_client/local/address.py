"""Read and write the address of the embedded farm's server, in its description file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import redis
from pydantic import Field, SecretStr, TypeAdapter, ValidationError

from ltx_client.shared.broker.client import Purpose, make_client
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.private_files import replace_file

__all__ = ["LOOPBACK", "Address"]

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """A server's port on loopback, and its password. The description file's mode is 0600.

    Attributes:
        locked: Whether the server has the farm's server lock; a server that an older version started does not.
    """

    port: Annotated[int, Field(strict=True, ge=1, le=65535)]
    password: Annotated[str, Field(pattern=r"^[\w-]+$")]
    locked: bool = False

    @property
    def url(self) -> SecretStr:
        """Return the URL for redis-py and Celery."""
        return SecretStr(f"redis://:{self.password}@{LOOPBACK}:{self.port}/0")

    def write(self, path: Path) -> None:
        """Replace the description in one step, so that no other user can read any of it."""
        replace_file(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Address | None:
        """Return the address in the description; None if it is missing or damaged."""
        try:
            return _DESCRIPTION.validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def connect(self, *, anonymous: bool = False) -> redis.Redis:
        """Return a client that is not connected yet, and tries everything once.

        Args:
            anonymous: Whether to connect without the password.
        """
        broker = Broker.parse(self.url.get_secret_value())
        return make_client(replace(broker, password="") if anonymous else broker, Purpose.EMBEDDED)

    def answers(self) -> bool:
        """Return whether a server with this password answers at the port."""
        with self.connect() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


_DESCRIPTION = TypeAdapter(Address)
