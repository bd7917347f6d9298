"""What the files of an attempt are called, in the storage and on its worker: {job}.{number}.{part of its token}…

The part of the token tells apart two attempts of one number, which a server that came back without its last writes may
have granted. Names of older versions have none; they are read, and never made.
"""

from __future__ import annotations

import re

__all__ = ["RESULT", "RESUME", "TOKEN_SHOWN", "attempt_name"]

TOKEN_SHOWN = 12
"""Digits of a token that a name shows: enough to be of one attempt alone, too few to write to the ledger with."""
_ATTEMPT = r"(?P<job>[0-9a-zA-Z][0-9a-zA-Z-]{0,63})\.(?P<number>[0-9]{1,19})(\.(?P<token>[0-9a-f]{12}))?"
RESULT = re.compile(_ATTEMPT + r"\.(mp4|json)")
"""A video or a sidecar."""
RESUME = re.compile(_ATTEMPT + r"\.[01]")
"""A resume point, in its folder."""


def attempt_name(job_id: str, number: int, token: str) -> str:
    """Return the name of what an attempt owns."""
    return f"{job_id}.{number}.{token[:TOKEN_SHOWN]}"
