"""Writes an MP4 in a thread: while its later frames are decoded, and beside the next render."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ltx_models.errors import VideoError
from ltx_models.machine_faults import machine_fault
from ltx_models.video import write_mp4
from ltx_worker.engine.messages import Unwritten, Written

__all__ = ["VideoWriter"]


class VideoWriter:
    """One video. tell: gets Written or Unwritten in the end, from the thread."""

    def __init__(self, output: Path, frame_rate: float, tell: Callable[[Written | Unwritten], None]) -> None:
        self.output = output
        self._frame_rate = frame_rate
        self._tell = tell
        self._parts: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._held = 0
        self._completed_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"writer-{output}", daemon=True)
        self._thread.start()

    def put(self, frames: np.ndarray) -> None:
        """The next frames, uint8 (n, H, W, 3). Never waits."""
        self._held += frames.nbytes
        self._parts.put(frames)

    def complete(self) -> None:
        """There are no more frames."""
        self._completed_at = time.monotonic()
        self._parts.put(None)

    def stop(self) -> None:
        """Leaves it unfinished, if it is not finished yet."""
        self._stopped.set()
        self._parts.put(None)

    def wait(self) -> None:
        """Until it is written, or will not be."""
        self._thread.join()

    @property
    def held(self) -> int:
        """Bytes of frames that it holds; 0 when it has ended."""
        return self._held if self._thread.is_alive() else 0

    def _frames(self) -> Iterator[np.ndarray]:
        while (part := self._parts.get()) is not None:
            for frame in part:
                self._check()
                yield frame
        self._check()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise VideoError("its writing was stopped")

    def _run(self) -> None:
        try:
            write_mp4(self._frames(), self.output, self._frame_rate)
            with self.output.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = self.output.stat().st_size
        except Exception as error:
            fault = machine_fault(error)
            if fault is None:
                raise
            kind = None if self._stopped.is_set() else fault.kind
            self._tell(Unwritten(output=self.output, error=str(fault), kind=kind))
            return
        seconds = round(time.monotonic() - self._completed_at, 4)
        self._tell(Written(output=self.output, size=size, sha256=sha256, seconds=seconds))
