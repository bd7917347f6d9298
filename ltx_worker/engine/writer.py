"""Write an MP4 and its poster in a thread, concurrently with the decode of later frames and with the next render."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ltx_client.protocol.file_names import POSTER
from ltx_models.errors import VideoError
from ltx_models.machine_faults import machine_fault
from ltx_models.sound import Sound
from ltx_models.video import add_sound, encode_poster, write_mp4
from ltx_worker.engine.messages import Unwritten, Written
from ltx_worker.threads.daemon import daemon

__all__ = ["VideoWriter"]

log = logging.getLogger(__name__)


class VideoWriter:
    """Writes one video in a thread, and in the same folder its poster.

    Args:
        output: the MP4's path.
        frame_rate: frames a second.
        poster_at: the number of the frame that is the poster, from 0.
        tell: is called with Written or Unwritten at the end, in the thread.
    """

    def __init__(
        self, output: Path, frame_rate: float, poster_at: int, tell: Callable[[Written | Unwritten], None]
    ) -> None:
        self.output = output
        self._frame_rate = frame_rate
        self._poster_at = poster_at
        self._tell = tell
        self._parts: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._pending = 0
        self._count = 0
        self._poster: np.ndarray | None = None
        self._audio: tuple[np.ndarray | None, int | None] = (None, None)
        self._completed_at = time.monotonic()
        self._thread = daemon(self._run, f"writer-{output}")
        self._thread.start()

    def put(self, frames: np.ndarray) -> None:
        """Append frames, uint8 (n, H, W, 3), without waiting."""
        self._pending += frames.nbytes
        self._parts.put(frames)

    def complete(self, audio: np.ndarray | None = None, audio_rate: int | None = None) -> None:
        """Finish the video after the frames that were put, with the sound of a `RenderResult`, if it has one."""
        self._completed_at = time.monotonic()
        self._audio = audio, audio_rate
        self._parts.put(None)

    def stop(self) -> None:
        """Stop writing the video, if it is not finished yet."""
        self._stopped.set()
        self._parts.put(None)

    def wait(self) -> None:
        """Wait until the video is written or has failed."""
        self._thread.join()

    @property
    def pending_bytes(self) -> int:
        """Return how many bytes of frames were put into a video that is not finished; 0 when it has ended."""
        return self._pending if self._thread.is_alive() else 0

    def _frames(self) -> Iterator[np.ndarray]:
        while (part := self._parts.get()) is not None:
            for frame in part:
                self._check()
                if self._count == self._poster_at:
                    self._poster = frame.copy()  # a view would keep all frames in memory
                self._count += 1
                yield frame
        self._check()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise VideoError("its writing was stopped")

    def _run(self) -> None:
        try:
            write_mp4(self._frames(), self.output, self._frame_rate)
            if (sound := Sound.of(*self._audio)) is not None:
                add_sound(self.output, sound, self._count / self._frame_rate)
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
        poster = self._write_poster()
        seconds = round(time.monotonic() - self._completed_at, 4)
        self._tell(Written(output=self.output, size=size, sha256=sha256, seconds=seconds, poster=poster))

    def _write_poster(self) -> str:
        """Write the poster, and return its SHA-256; empty for one that cannot be made, since the video is whole."""
        path, frame, self._poster = self.output.with_name(POSTER.local), self._poster, None
        if frame is None:
            return ""
        try:
            jpeg = encode_poster(frame)
            path.write_bytes(jpeg)
        except Exception as error:  # noqa: BLE001 - whatever it is, the video is finished
            log.warning("a poster was left out: %s", str(error) or type(error).__name__)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return ""
        return hashlib.sha256(jpeg).hexdigest()
