"""Read arrays in NumPy's own format (`.npz`) from untrusted bytes.

`np.load` trusts what it reads: it allocates memory for an array before it has read a value, and corrupt bytes raise
whatever its parsers raise. Here an array's values must be present first.
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
    """The bytes are not as `np.savez` wrote them; the message says why."""


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays that `np.savez` wrote into `data`, by name, each checked against its checksum.

    It takes a few times as much memory as there are bytes.

    Raises:
        DamagedArrays: the bytes are not as `np.savez` wrote them.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise DamagedArrays("an entry is compressed, and this format has no compressed entries")
            if sum(entry.file_size for entry in entries) > len(data):
                raise DamagedArrays("the sizes in its header are larger than the data")
            return {entry.filename.removesuffix(SUFFIX): _array(file.read(entry)) for entry in entries}
    except DamagedArrays:
        raise
    except Exception as error:  # zipfile and NumPy do not document what damaged bytes raise
        raise DamagedArrays(f"{type(error).__name__}: {error}".partition("\n")[0][:200]) from error


def _array(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    version: Any = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise DamagedArrays(f"an array has the unknown format {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise DamagedArrays("an array has the dtype object, which is never written")
    values = memoryview(data)[file.tell() :]
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(values):
        raise DamagedArrays("an array's number of values differs from its shape")
    return np.frombuffer(values, dtype, math.prod(shape)).reshape(shape, order="F" if fortran_order else "C").copy()
