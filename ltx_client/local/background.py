"""Hand the embedded farm to a background `ltx up`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from ltx_client.errors import FarmError
from ltx_client.local.members import FarmFolder, Use

__all__ = ["continue_in_background"]

START_TIMEOUT = 15.0


def continue_in_background(home: Path, variant: str) -> None:
    """Return when an `ltx up` of this variant is a member of the farm: an existing or a new one, which ends when idle.

    The caller is a member itself and leaves afterwards, so the farm never stops in between.

    Raises:
        FarmError: The new one did not start.
    """
    folder = FarmFolder(home)
    if _is_up(folder, variant):
        return
    with (folder.path / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ltx_client", "up", "--until-idle", "--variant", variant],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT
    while not _is_up(folder, variant):
        if process.poll() is not None or time.monotonic() > deadline:
            raise FarmError(f"the farm could not continue in the background; see {folder.path / 'up.log'}")
        time.sleep(0.05)


def _is_up(folder: FarmFolder, variant: str) -> bool:
    with folder.roster_lock():
        return any(member.use is Use.UP and member.variant == variant for member in folder.members())
