"""Keeps the folders of what renders need meanwhile: one for each attempt, removed when it is over."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["WorkFolders"]


class WorkFolders:
    """Makes folders in `path`, which is emptied first: what a worker that was killed has left there goes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._left: set[Path] = set()
        with contextlib.suppress(OSError):  # as on a full disk: a probe makes it once there is room
            path.mkdir(parents=True, exist_ok=True)
            for left in path.iterdir():
                shutil.rmtree(left, ignore_errors=True)
                with contextlib.suppress(OSError):  # it is no folder
                    left.unlink(missing_ok=True)

    @contextlib.contextmanager
    def of(self, attempt: str) -> Iterator[Path]:
        """Make a folder for an attempt of this name, and remove it in the end. Raise OSError where none can be made."""
        folder = Path(tempfile.mkdtemp(dir=self.path, prefix=f"{attempt}-"))
        try:
            yield folder
        finally:
            self._left.add(folder)
            self.tidy()

    def tidy(self) -> None:
        """Remove what could not be removed before, as where no file could be opened."""
        for folder in tuple(self._left):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                self._left.discard(folder)
