"""Arrays as bytes, NumPy's own format (`.npz`), from places where anything may have happened to them.

`np.load` believes what it reads: memory for an array is taken before one of its values was seen, and damage raises
whatever the parser at hand raises. Here an array's values must be there first.
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np

__all__ = ["DamagedArrays", "read_arrays"]

SUFFIX = ".npy"


class DamagedArrays(Exception):
    """Bytes that are not what `np.savez` has written: why."""


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays that `np.savez` has put into `data`, by name, each checked against its checksum. Takes a few times as
    much memory as there are bytes. Raises DamagedArrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise DamagedArrays("it is compressed, which it was not when it was written")
            if sum(entry.file_size for entry in entries) > len(data):
                raise DamagedArrays("it says that it is larger than it is")
            return {entry.filename.removesuffix(SUFFIX): _array(file.read(entry)) for entry in entries}
    except DamagedArrays:
        raise
    except Exception as error:  # zipfile and NumPy do not say what damaged bytes may raise
        raise DamagedArrays(f"{type(error).__name__}: {error}".partition("\n")[0][:200]) from error


def _array(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    version: Any = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise DamagedArrays(f"an array is of format {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise DamagedArrays("an array holds objects, which are never written")
    values = memoryview(data)[file.tell() :]
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(values):
        raise DamagedArrays("an array has not as many values as it says")
    return np.frombuffer(values, dtype, math.prod(shape)).reshape(shape, order="F" if fortran_order else "C").copy()
