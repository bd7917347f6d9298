"""Fetches videos for commands, and says what a person may wait for."""

from __future__ import annotations

from pathlib import Path

from ltx_client.farm import Farm
from ltx_client.output_paths import make_folder, waits_for_reader
from ltx_client.protocol.screen import notice

__all__ = ["fetch", "tell_of_reader"]


def fetch(farm: Farm, job_id: str, target: Path) -> None:
    """Download a finished job's video; see `Farm.download`."""
    make_folder(target.parent)
    tell_of_reader(target)
    farm.download(job_id, target)


def tell_of_reader(path: Path) -> None:
    """Say so where nothing is written before somebody reads it."""
    if waits_for_reader(path):
        notice(f"{path} is a named pipe: it is written to when something reads it")
