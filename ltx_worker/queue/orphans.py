"""Remove from the storage the files of attempts that are over, and old probe files.

Such files are left by workers that were killed between storing and commit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import redis

from ltx_client.protocol.file_names import RESULT
from ltx_client.shared.storage.store import Storage, StorageError
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.threads.background import LONGEST_PAUSE, Background
from ltx_worker.threads.watched import STORAGE_LIMIT

__all__ = ["Orphans"]

log = logging.getLogger(__name__)


class _File(NamedTuple):
    """The name of a file of a result; `whole` is False for parts that were never put together."""

    name: str
    whole: bool


class Orphans(Background):
    """A thread that removes the results of attempts that no commit names.

    A file is removed when two sweeps in a row found no owner: a server that loses its last writes may give it an owner
    again in between.

    Args:
        storage: the farm's storage.
        ledger: knows which attempts own files.
        is_chosen: whether this worker is the one of the farm that sweeps.
        every: seconds between two sweeps.
        tidy: removes what attempts have left on this machine; called every few seconds.
    """

    def __init__(
        self,
        storage: Storage,
        ledger: Ledger,
        is_chosen: Callable[[], bool],
        *,
        every: float,
        tidy: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__("orphans", limit=STORAGE_LIMIT)
        self._storage = storage
        self._ledger = ledger
        self._is_chosen = is_chosen
        self._every = every
        self._tidy = tidy
        self._sweep_at = time.monotonic() + every
        self._seen: set[_File] = set()
        self._probes: set[str] = set()

    def _cycle(self) -> None:
        if self._stopped.wait(min(self._every, LONGEST_PAUSE)):
            return
        self._tidy()
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + self._every
        try:
            if self._is_chosen():
                self.sweep()
            else:
                self._seen.clear()
                self._probes.clear()
        except (StorageError, redis.RedisError) as error:  # no fault of this worker's, and the next sweep will do
            self._note(error)
            log.warning("files of ended attempts stay in the storage until the next sweep: %s", error)

    def sweep(self) -> None:
        """Sweep the storage once.

        Raises:
            StorageError: the storage does not answer, or refuses.
            redis.RedisError: the broker does not answer, or refuses.
        """
        self._storage.identify()
        orphans = set(self._find())
        for file in sorted(orphans & self._seen):
            log.warning("removed %s: its attempt is over, and it is not the job's result", file.name)
            self._storage.remove_unfinished(file.name)
            if file.whole:
                self._storage.remove(file.name)
        self._seen = orphans
        probes = set(self._storage.probes())
        for name in sorted(probes & self._probes):
            self._storage.remove_probe(name)
        self._probes = probes

    def _find(self) -> Iterator[_File]:
        files = [_File(name, whole=True) for name in self._storage.names("")]
        files += [_File(name, whole=False) for name in self._storage.unfinished("")]
        matches = [(file, match) for file in files if (match := RESULT.fullmatch(file.name))]
        owners = self._ledger.ownership(match["job"] for _, match in matches)
        for file, match in matches:
            owner = owners.get(match["job"])
            if owner and owner.disowns(file.name if file.whole else None, match["token"]):
                yield file
