"""Build and match the names of an attempt's files, in the storage and on its worker.

A name is {job}.{number}.{part of its token}…; the part of the token distinguishes two attempts with the same number,
which a server that restarted without its last writes may have granted. Names written by older versions have no token;
they are read but never written.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "POSTER",
    "RESULT",
    "RESULT_FILES",
    "RESUME",
    "SIDECAR",
    "TOKEN_SHOWN",
    "VIDEO",
    "ResultFile",
    "attempt_name",
]

TOKEN_SHOWN = 12
"""Digits of a token that a name shows: enough to identify one attempt, too few to write to the ledger with."""
_ATTEMPT = r"(?P<job>[0-9a-zA-Z][0-9a-zA-Z-]{0,63})\.(?P<number>[0-9]{1,19})(\.(?P<token>[0-9a-f]{12}))?"


class ResultFile(NamedTuple):
    """A kind of file that an attempt renders, as a row of RESULT_FILES.

    Attributes:
        field: The field of a `Result` that has the file's name in the storage.
        suffix: What that name ends with, after the attempt's name.
        local: The file's name in a worker's own folders, those of its work and of its spool.
        media_type: What HTTP calls its content.
        sha256: The field of a `Result` that has the content's SHA-256; empty where it is not noted.
        link: The field of a `Result` that has the file's download link; empty where it has none.
        optional: Whether a result is whole without it: one that cannot be made or stored is left out.
    """

    field: str
    suffix: str
    local: str
    media_type: str
    sha256: str = ""
    link: str = ""
    optional: bool = False

    def name(self, attempt: str) -> str:
        """Return the file's name in the storage."""
        return f"{attempt}{self.suffix}"


VIDEO = ResultFile("video", ".mp4", "video.mp4", "video/mp4", sha256="sha256", link="link")
SIDECAR = ResultFile("sidecar", ".json", "sidecar.json", "application/json")
POSTER = ResultFile(
    "poster", ".jpg", "poster.jpg", "image/jpeg", sha256="poster_sha256", link="poster_link", optional=True
)
"""Versions from before posters neither read nor remove a file of this suffix: their `gc` and their sweeps pass it over.
What they leave, the next `gc` or sweep of a version that knows it removes by the attempt's name.
"""
RESULT_FILES = (VIDEO, SIDECAR, POSTER)
"""All kinds, the required ones first."""
RESULT = re.compile(_ATTEMPT + f"({'|'.join(re.escape(kind.suffix) for kind in RESULT_FILES)})")
"""The name of a file of any of these kinds."""
RESUME = re.compile(_ATTEMPT + r"\.[01]")
"""The name of a resume point in its folder."""


def attempt_name(job_id: str, number: int, token: str) -> str:
    """Return the stem of the names of the files that an attempt owns."""
    return f"{job_id}.{number}.{token[:TOKEN_SHOWN]}"
