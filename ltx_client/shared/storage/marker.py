"""Read and write the file that marks a farm's storage: if it is missing, the share is not mounted, or the URL is wrong.

.ltx-storage    JSON, with a random id; written once, by `ltx storage init` or for an embedded farm's videos
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
    """The content of the file; later versions may add fields."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{32}$")


def new_marker() -> bytes:
    """Return the content of the marker of a new storage."""
    about = "This folder is the storage of an ltx-farm: keep this file, by which its programs know the folder."
    return (json.dumps({"id": secrets.token_hex(16), "about": about}, indent=2) + "\n").encode()


def parse_marker(data: bytes) -> Marker | None:
    """Return a marker's content, or None if the bytes are not a marker."""
    try:
        return Marker.model_validate_json(data[:LONGEST])
    except ValidationError:
        return None
