"""Check that frames can be written as an MP4 on this machine, and read again. Needs no MLX."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ltx_models.errors import FaultKind, MachineFault

__all__ = ["try_video"]

FRAMES = 2


def try_video(prefix: str = "ltx-trial-") -> None:
    """Write an MP4 as a render does, and read it. Raise what prevents that: MachineFault, or any other error.

    Args:
        prefix: The beginning of the name of a temporary folder, which is removed afterwards.
    """
    import numpy as np

    from ltx_models.media.clips import read_clip
    from ltx_models.video import write_mp4

    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "trial.mp4"
        write_mp4(np.zeros((FRAMES, 32, 32, 3), np.uint8), path, 24)
        if len(list(read_clip(path, FRAMES))) != FRAMES:
            raise MachineFault("ffmpeg does not read what it has written", FaultKind.FFMPEG)
