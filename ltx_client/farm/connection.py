"""How a program is connected to a farm, and for how long."""

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
    """Return what can be done on the farm that the settings name; of this machine's own, whose server is started, the
    stack is what leaves it.
    """
    if settings.broker_url is not None:
        return Operations(settings.broker_url, settings.names, settings.storage_url, None)
    from ltx_client.local.join import join  # no other farm needs it

    embedded = FarmFolder(settings.home)
    broker_url = stack.enter_context(join(settings.home, use, variant)).url
    return Operations(broker_url, settings.names, str(embedded.videos), embedded)


class Connection:
    """Whatever a `Farm` needs to know of where it is."""

    def __init__(
        self, settings: FarmSettings | None = None, *, use: Use = Use.RENDER, variant: str = DEFAULT_VARIANT
    ) -> None:
        """Connects to the farm that the environment or the configuration names; with no broker there, to this machine's
        embedded farm.

        `use` and `variant` say what is needed of the embedded farm, which is started, and stopped when nobody uses it.
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
        """A farm over a connection that is there already, and that its owner closes."""
        farm = cls.__new__(cls)
        farm._operations = Operations(broker_url, names, storage_url, embedded)
        farm._client = client
        farm._close = weakref.finalize(farm, lambda: None)
        return farm

    @classmethod
    def connect(
        cls, settings: FarmSettings | None = None, use: Use = Use.RENDER, variant: str = DEFAULT_VARIANT
    ) -> Self:
        """The same as the constructor."""
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
        """Disconnects; of an embedded farm, leaves it. What is not closed is at the end of the program."""
        self._close()
