"""Find shares that are not mounted on a Mac: a folder created in a share's place would hide the share for good."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["VOLUMES", "check_mounted", "unmounted_volume"]

VOLUMES = Path("/Volumes")


def unmounted_volume(path: Path) -> Path | None:
    """Return the folder in /Volumes on a path of a Mac, where nothing is mounted there; else None."""
    depth = len(VOLUMES.parts)
    within = [part.casefold() for part in path.parts[:depth]] == [part.casefold() for part in VOLUMES.parts]
    if sys.platform != "darwin" or not within or len(path.parts) == depth:
        return None
    volume = Path(*path.parts[: depth + 1])
    return None if volume.is_symlink() or os.path.ismount(volume) else volume  # the system's own disk is a link there


def check_mounted(path: Path) -> None:
    """Raise FileNotFoundError for a path on a Mac that leads through a share which is not mounted."""
    if volume := unmounted_volume(path):
        raise FileNotFoundError(f"nothing is mounted at {volume}; mount the share first; no folder was created there")
