"""The file by which a farm's storage is known: where it is missing, the share is not mounted, or the URL is another's.

.ltx-storage    JSON, with a random id; made once, by `ltx storage init` or for the videos of an embedded farm
"""

from __future__ import annotations

import json
import secrets

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["LONGEST", "MARKER", "Marker", "new_marker", "parse_marker"]

MARKER = ".ltx-storage"
LONGEST = 4096
"""Bytes of a marker that are read."""


class Marker(BaseModel):
    """What stands in the file; more fields may come."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{32}$")


def new_marker() -> bytes:
    """Return the content of the marker of a new storage."""
    about = "This folder is the storage of an ltx-farm: keep this file, by which its programs know the folder."
    return (json.dumps({"id": secrets.token_hex(16), "about": about}, indent=2) + "\n").encode()


def parse_marker(data: bytes) -> Marker | None:
    """Return what a marker says, or None for bytes that are none."""
    try:
        return Marker.model_validate_json(data[:LONGEST])
    except ValidationError:
        return None
