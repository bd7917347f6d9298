"""Read an MP4 back by ffmpeg, as a player does: its header, and every frame."""

import re
import subprocess
from dataclasses import dataclass

import imageio_ffmpeg
import numpy as np


@dataclass(frozen=True)
class Clip:
    """A decoded clip: `frames`, uint8 (F, H, W, 3), and `header`, ffmpeg's description of the video stream."""

    frames: np.ndarray
    frame_rate: float
    header: str


def read_clip(path):
    """Decode a clip; raise CalledProcessError if ffmpeg finds an error in it."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-xerror", "-v", "info", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True)
    header = next(line for line in decoded.stderr.decode().splitlines() if "Stream #0:0" in line)
    width, height = map(int, re.search(r", (\d+)x(\d+)", header).groups())
    frames = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, height, width, 3)
    return Clip(frames, float(re.search(r"([\d.]+) fps", header).group(1)), header.strip())
