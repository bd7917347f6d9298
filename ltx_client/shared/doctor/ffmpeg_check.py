"""Check ffmpeg, for doctors of clients and workers alike."""

from __future__ import annotations

import subprocess

from ltx_client.shared.doctor.checks import Finding, Level
from ltx_models.self_test.video_trial import try_video

__all__ = ["examine_ffmpeg"]

TIMEOUT = 60.0
"""Seconds; the system may scan a program for viruses when it runs for the first time."""


def examine_ffmpeg(*, renders: bool = True) -> Finding:
    """Return what is wrong with ffmpeg, or its path.

    Args:
        renders: Whether it must write videos and read clips.
    """
    import imageio_ffmpeg

    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        command = [path, "-hide_banner", "-encoders"]
        encoders = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        fix = "pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to one that works"
        return Finding("ffmpeg", Level.FAILURE, f"it does not run: {error}", fix)
    if not renders:
        return Finding("ffmpeg", Level.OK, path)
    if "libx264" not in encoders:
        return Finding("ffmpeg", Level.FAILURE, f"{path} cannot write H.264", "unset IMAGEIO_FFMPEG_EXE")
    try:
        try_video()
    except Exception as error:  # noqa: BLE001 - whatever it is, no render would get further
        why = str(error) or type(error).__name__
        fix = "unset IMAGEIO_FFMPEG_EXE, or set it to a newer one; pip install --force-reinstall imageio-ffmpeg"
        return Finding("ffmpeg", Level.FAILURE, f"{path} makes videos that cannot be read: {why}", fix)
    return Finding("ffmpeg", Level.OK, path)
