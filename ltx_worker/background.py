"""What a worker does beside its renders."""

from __future__ import annotations

import threading

__all__ = ["Background"]


class Background:
    """A thread from `start` to `stop`, named `name`. What it does is a subclass's `_run`, which returns soon after
    `_stopped` was set.
    """

    def __init__(self, name: str) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends what it does, and returns then."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError
