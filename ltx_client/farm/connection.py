"""Connect a program to a farm, and disconnect it."""

from __future__ import annotations

import contextlib
import weakref
from types import TracebackType
from typing import Self

import redis
from pydantic import SecretStr

from ltx_client.farm.broker import connect
from ltx_client.farm.operations import Operations
from ltx_client.local.members import FarmFolder, Use
from ltx_client.protocol.names import Names
from ltx_client.shared.settings import FarmSettings
from ltx_models.families.variants import DEFAULT_VARIANT

__all__ = ["Connection", "enter_farm"]


def enter_farm(settings: FarmSettings, use: Use, variant: str, stack: contextlib.ExitStack) -> Operations:
    """Return the operations of the farm that the settings name, or of this machine's own farm, which is started.

    Args:
        settings: The farm's settings.
        use: What is needed of this machine's own farm.
        variant: The variant that its worker serves.
        stack: Leaves this machine's own farm when it is closed.
    """
    if settings.broker_url is not None:
        return Operations(settings.broker_url, settings.names, settings.storage_url, None)
    from ltx_client.local.join import join  # no other farm needs it

    embedded = FarmFolder(settings.home)
    broker_url = stack.enter_context(join(settings.home, use, variant)).url
    return Operations(broker_url, settings.names, str(embedded.videos), embedded)


class Connection:
    """A connection to a farm, with everything that a `Farm` needs to know about it."""

    def __init__(
        self, settings: FarmSettings | None = None, *, use: Use = Use.RENDER, variant: str = DEFAULT_VARIANT
    ) -> None:
        """Connect to the farm that the environment or the configuration names, or to this machine's embedded farm.

        Args:
            settings: The farm's settings; None for those of the environment and the configuration.
            use: What is needed of the embedded farm, which is started, and stops when nobody uses it.
            variant: The variant that the embedded farm's worker serves.
        """
        with contextlib.ExitStack() as stack:
            self._operations = enter_farm(settings or FarmSettings(), use, variant, stack)
            self._client = stack.enter_context(connect(self._operations.broker_url))
            self._close = weakref.finalize(self, stack.pop_all().close)

    @classmethod
    def over(
        cls,
        client: redis.Redis,
        broker_url: SecretStr,
        names: Names,
        storage_url: str | None,
        embedded: FarmFolder | None = None,
    ) -> Self:
        """Return a farm over an existing connection, which its owner closes."""
        farm = cls.__new__(cls)
        farm._operations = Operations(broker_url, names, storage_url, embedded)
        farm._client = client
        farm._close = weakref.finalize(farm, lambda: None)
        return farm

    @classmethod
    def connect(
        cls, settings: FarmSettings | None = None, use: Use = Use.RENDER, variant: str = DEFAULT_VARIANT
    ) -> Self:
        """Connect as the constructor does."""
        return cls(settings, use=use, variant=variant)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_embedded(self) -> bool:
        """Whether this is the farm of this machine alone, with a broker of its own."""
        return self._operations.embedded is not None

    @property
    def storage_url(self) -> str | None:
        """Where the farm's videos lie, if that is known here."""
        return self._operations.storage_url

    @storage_url.setter
    def storage_url(self, url: str | None) -> None:
        self._operations.storage_url = url

    def close(self) -> None:
        """Disconnect, and leave an embedded farm. The end of the program closes what is still open."""
        self._operations.closed = True
        self._close()
