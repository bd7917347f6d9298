"""Show jobs until they have ended, as a terminal has room: one as a bar, several as a table."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from ltx_client.farm.farm import Farm
from ltx_client.shared.console.rich_console import Console
from ltx_client.terminal.notices.wait_reasons import explain_waits
from ltx_client.terminal.watching.live_table import LiveDisplay
from ltx_client.terminal.watching.progress import Display, display

__all__ = ["follow"]


def follow(farm: Farm, ids: list[str], told: Collection[str] = ()) -> None:
    """Show jobs until all have ended: several in a terminal as a table, with the workers.

    Args:
        farm: The farm.
        ids: The jobs' ids.
        told: Jobs of whose cut texts the person has been told.
    """
    with contextlib.ExitStack() as stack:
        console = Console(stderr=True)
        if len(ids) > 1 and console.is_terminal:
            screen: Display = stack.enter_context(LiveDisplay(farm, console, told))
        else:
            screen = stack.enter_context(display(with_ids=len(ids) > 1, told=told))
        for update in explain_waits(farm, farm.watch(*ids)):
            screen.show(update)
