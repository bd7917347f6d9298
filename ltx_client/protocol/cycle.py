"""In which order a worker looks into its queues, within one priority. kombu loads this by its name."""

from __future__ import annotations

from kombu.utils.scheduling import round_robin_cycle

from ltx_client.protocol.names import is_later

__all__ = ["TurnCycle"]


class TurnCycle(round_robin_cycle):
    """First queues before later ones; among each, the one that was served last comes last: small jobs that never end
    must not keep the larger memory classes waiting.
    """

    def update(self, it: list[str]) -> None:
        """Takes the consumed queues."""
        super().update(it)  # type: ignore[no-untyped-call]
        self.items.sort(key=is_later)

    def rotate(self, last_used: str) -> str:
        """Puts the queue that was served behind its like."""
        super().rotate(last_used)  # type: ignore[no-untyped-call]
        self.items.sort(key=is_later)
        return last_used
