"""Read an MP4 back by ffmpeg, as a player does: its header, and every frame."""

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

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


@dataclass(frozen=True)
class Stream:
    """A stream of a file, by its packets: `start` and `end` in seconds."""

    start: float
    end: float
    packets: int


def read_streams(path):
    """Return {kind: Stream}, such as of "video" and "audio", as the file's own index has them."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-map", "0", "-c", "copy"]
    said = subprocess.run([*command, "-f", "framecrc", "-"], capture_output=True, check=True, text=True).stdout
    bases = {number: Fraction(base) for number, base in re.findall(r"#tb (\d+): (\S+)", said)}
    kinds = dict(re.findall(r"#media_type (\d+): (\w+)", said))
    packets = defaultdict(list)
    for line in said.splitlines():
        if not line.startswith("#"):
            number, _, at, length, *_ = (field.strip() for field in line.split(","))
            packets[number].append((int(at) * bases[number], (int(at) + int(length)) * bases[number]))
    return {
        kinds[number]: Stream(float(min(spans)[0]), float(max(end for _, end in spans)), len(spans))
        for number, spans in packets.items()
    }


def read_sound(path):
    """Decode the sound as a player does; return float32 (samples, channels) and its rate."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-xerror", "-v", "info", "-i", path, "-map", "0:a:0", "-f", "f32le", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True)
    header = next(line for line in decoded.stderr.decode().splitlines() if "Audio:" in line)
    rate, channels = re.search(r"Audio: aac.*?, (\d+) Hz, (mono|stereo)", header).groups()
    return np.frombuffer(decoded.stdout, "<f4").reshape(-1, {"mono": 1, "stereo": 2}[channels]), int(rate)
