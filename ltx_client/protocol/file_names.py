"""Build and match the names of an attempt's files, in the storage and on its worker.

A name is {job}.{number}.{part of its token}…; the part of the token distinguishes two attempts with the same number,
which a server that restarted without its last writes may have granted. Names written by older versions have no token;
they are read but never written.
"""

from __future__ import annotations

import re

__all__ = ["RESULT", "RESUME", "TOKEN_SHOWN", "attempt_name"]

TOKEN_SHOWN = 12
"""Digits of a token that a name shows: enough to identify one attempt, too few to write to the ledger with."""
_ATTEMPT = r"(?P<job>[0-9a-zA-Z][0-9a-zA-Z-]{0,63})\.(?P<number>[0-9]{1,19})(\.(?P<token>[0-9a-f]{12}))?"
RESULT = re.compile(_ATTEMPT + r"\.(mp4|json)")
"""The name of a video or a sidecar."""
RESUME = re.compile(_ATTEMPT + r"\.[01]")
"""The name of a resume point in its folder."""


def attempt_name(job_id: str, number: int, token: str) -> str:
    """Return the stem of the names of the files that an attempt owns."""
    return f"{job_id}.{number}.{token[:TOKEN_SHOWN]}"
