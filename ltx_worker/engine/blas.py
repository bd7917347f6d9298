"""A faster BLAS for MLX on a Linux CPU.

MLX's Linux CPU wheel links the reference BLAS. Where Debian's OpenBLAS is installed (`libopenblas0-pthread`),
preloading it speeds products and convolutions up by one to two orders of magnitude.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

__all__ = ["blas_environment"]


def blas_environment() -> dict[str, str]:
    """The variables to start an engine with: LD_PRELOAD of OpenBLAS on Linux where it is found, else nothing."""
    if sys.platform != "linux":
        return {}
    library = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH")) / "openblas-pthread/libblas.so.3"
    return {"LD_PRELOAD": str(library)} if library.exists() else {}
