"""Convert colours of clips to those of a computer's screen, sRGB, as tables for ffmpeg's `lut3d`.

Transfer functions: ITU-R BT.2100 (HLG with the system gamma of a screen of 1,000 cd/m², PQ) and IEC 61966-2-1 (sRGB).
By ITU-R BT.2408 the white of paper is at 203 cd/m²: that becomes nearly the white of a screen, and brighter light is
compressed into the range above it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["HDR", "PRIMARIES", "convert", "from_srgb", "to_srgb", "write_cube"]

PAPER_WHITE = 203.0
"""The white of paper in cd/m², the same unit as the peak."""
PEAK = 1000.0
HLG_GAMMA = 1.2
KNEE = 0.8
"""The fraction of paper's white above which light is compressed."""
SIDE = 33
"""Values of each colour in a table; ffmpeg interpolates between them."""
XY = {
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "smpte432": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
PRIMARIES = frozenset(XY) - {"bt709"}
"""ffmpeg's names of the primaries that are converted. BT.601's differ from BT.709's too little to be seen."""
D65 = (0.3127, 0.3290)
LUMINANCE = np.array([0.2627, 0.6780, 0.0593])
"""The luminance of BT.2020's primaries."""


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Return the sRGB signal of light, both in [0, 1]."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def from_srgb(signal: np.ndarray) -> np.ndarray:
    """Return the light of an sRGB signal, both in [0, 1]."""
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def hlg_light(signal: np.ndarray) -> np.ndarray:
    """Return the light of an HLG signal (…, 3), in units of paper's white."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = np.maximum(scene @ LUMINANCE, 1e-9)[..., None]
    return luminance ** (HLG_GAMMA - 1) * scene * (PEAK / PAPER_WHITE)


def pq_light(signal: np.ndarray) -> np.ndarray:
    """Return the light of a PQ signal, in units of paper's white."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return 10_000 / PAPER_WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


HDR: dict[str, Callable[[np.ndarray], np.ndarray]] = {"arib-std-b67": hlg_light, "smpte2084": pq_light}
"""Functions from a signal of high dynamic range to light, by ffmpeg's names of their transfer functions."""


def compress(light: np.ndarray) -> np.ndarray:
    """Return light, in units of paper's white, compressed to a peak of 1; all colours alike, to keep the hue."""
    highest = np.maximum(light.max(-1, keepdims=True), 1e-9)
    over = np.minimum((highest - KNEE) / (1 - KNEE), top := (PEAK / PAPER_WHITE - KNEE) / (1 - KNEE))
    rolled = KNEE + (1 - KNEE) * over * (1 + over / top**2) / (1 + over)
    return light * np.where(highest > KNEE, rolled / highest, 1)


def convert(signal: np.ndarray, transfer: str, primaries: str) -> np.ndarray:
    """Return a signal (…, 3) in sRGB, both in [0, 1]; a transfer function that is not HDR is treated as sRGB's."""
    light = compress(HDR[transfer](signal)) if transfer in HDR else from_srgb(signal)
    light = light @ (np.linalg.inv(_to_xyz("bt709")) @ _to_xyz(primaries)).T
    return to_srgb(np.clip(light, 0, 1))


def write_cube(path: Path, transfer: str, primaries: str) -> None:
    """Write the table of `convert` as a file for `lut3d`."""
    steps = np.linspace(0, 1, SIDE)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    table = convert(np.stack([red, green, blue], -1), transfer, primaries).reshape(-1, 3)
    with path.open("w") as file:
        file.write(f"LUT_3D_SIZE {SIDE}\n")
        np.savetxt(file, table, "%.6f")


def _to_xyz(primaries: str) -> np.ndarray:
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*XY[primaries], D65)]).T
    scale = np.linalg.solve(columns[:, :3], columns[:, 3])
    return columns[:, :3] * scale
