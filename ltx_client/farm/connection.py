"""Connect a program to a farm, and disconnect it."""

from __future__ import annotations

import contextlib
import weakref
from types import TracebackType
from typing import Self

import redis
from pydantic import SecretStr

from ltx_client.errors import BrokerUnreachable, UsageError
from ltx_client.farm.batches import Batches
from ltx_client.farm.broker import broker_errors, connect
from ltx_client.farm.jobs.records import read_views
from ltx_client.farm.ledger.removal import RemovalLedger
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.farm.pauses import Pauses
from ltx_client.local.members import FarmFolder, Use
from ltx_client.protocol.clock import Clock
from ltx_client.protocol.names import Names
from ltx_client.shared.settings import FarmSettings, broker_address
from ltx_models.families.variants import DEFAULT_VARIANT

__all__ = ["Connection"]


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
        settings = settings or FarmSettings()
        with contextlib.ExitStack() as stack:
            embedded, broker_url, storage_url = None, settings.broker_url, settings.storage_url
            if broker_url is None:
                from ltx_client.local.join import join  # no other farm needs it

                embedded = FarmFolder(settings.home)
                broker_url = stack.enter_context(join(settings.home, use, variant)).url
                storage_url = str(embedded.videos)
            client = stack.enter_context(connect(broker_url))
            self._attach(client, broker_url, settings.names, storage_url, embedded)
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
        farm._attach(client, broker_url, names, storage_url, embedded)
        farm._close = weakref.finalize(farm, lambda: None)
        return farm

    @property
    def is_embedded(self) -> bool:
        """Return whether this is the farm of this machine alone, with a broker of its own."""
        return self._embedded is not None

    def _attach(
        self,
        client: redis.Redis,
        broker_url: SecretStr,
        names: Names,
        storage_url: str | None,
        embedded: FarmFolder | None,
    ) -> None:
        self.storage_url = storage_url
        self._embedded = embedded
        self._client = client
        self._broker_url = broker_url
        self._address = broker_address(broker_url)
        self._names = names
        self._ledger = ClientLedger(client, names)
        self._removals = RemovalLedger(client, names)
        self._clock = Clock()
        self._pauses = Pauses(client, names)
        self._batches = Batches(client, names, lambda ids: read_views(client, names, ids))

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

    def close(self) -> None:
        """Disconnect, and leave an embedded farm. The end of the program closes what is still open."""
        self._close()

    def now(self) -> float:
        """Return the time by the broker's clock, as for every time that the farm shows: seconds since 1970.

        The time is this machine's own for a user that may not ask the broker.
        """
        with broker_errors(self._address), contextlib.suppress(redis.exceptions.NoPermissionError):
            self._clock.measure(self._client)
        return self._clock.now()

    def check(self) -> None:
        """Check that this machine's embedded farm can render; do nothing for other farms.

        Raises:
            BrokerUnreachable: The embedded farm has died.
            UsageError: Its worker cannot start with the present settings.
        """
        if self._embedded is None:
            return
        if not self._embedded.is_kept():
            from ltx_client.local.join import why_stopped

            raise BrokerUnreachable(why_stopped(self._embedded))
        if why := self._embedded.why_refused():
            raise UsageError(f"this machine's worker does not start: {why}; its jobs stay queued until it does")
