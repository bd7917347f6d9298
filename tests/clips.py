"""Reading an MP4 back with ffmpeg itself, as a player would: its header, and every frame."""

import re
import subprocess
from dataclasses import dataclass

import imageio_ffmpeg
import numpy as np


@dataclass(frozen=True)
class Clip:
    """frames: uint8, (F, H, W, 3). `header`: how ffmpeg describes the video stream."""

    frames: np.ndarray
    frame_rate: float
    header: str


def read_clip(path):
    """Decodes a clip. Raises CalledProcessError when ffmpeg finds anything wrong with it."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-xerror", "-v", "info", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True)
    header = next(line for line in decoded.stderr.decode().splitlines() if "Stream #0:0" in line)
    width, height = map(int, re.search(r", (\d+)x(\d+)", header).groups())
    frames = np.frombuffer(decoded.stdout, np.uint8).reshape(-1, height, width, 3)
    return Clip(frames, float(re.search(r"([\d.]+) fps", header).group(1)), header.strip())
