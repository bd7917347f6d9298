"""Remember the hashes of model files from one start to the next, since reading 10 GB takes many seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ltx_models.checkpoint import file_hash

__all__ = ["RememberedHashes"]

KEPT = 50
_HASH = re.compile(r"[0-9a-f]{64}")


class RememberedHashes:
    """A cache of hashes in a small JSON file, which may be removed at any time.

    A file whose size or time of change differs is hashed again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, files: Sequence[Path]) -> str:
        """Return the SHA-256, in hexadecimal, of the files' bytes, one file after another."""
        key = json.dumps([[str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files])
        known = self._read()
        if key not in known:
            known[key] = file_hash(files)
            self._write(dict(list(known.items())[-KEPT:]))
        return known[key]

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._path.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {key: value for key, value in known.items() if isinstance(value, str) and _HASH.fullmatch(value)}

    def _write(self, known: dict[str, str]) -> None:
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(known))
            temporary.replace(self._path)
        except OSError:
            return  # a folder that cannot be written costs the reading at the next start
