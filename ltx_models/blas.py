"""Choose a faster BLAS for MLX on a Linux CPU.

MLX's Linux CPU wheel links the reference BLAS. OpenBLAS, loaded before it, takes its place and speeds products and
convolutions up by one to two orders of magnitude: Debian's (`libopenblas0-pthread`) where that is installed, else the
one of the package `ngsolve-openblas`, which has kernels for each x86-64 processor under the plain names that MLX calls.
That library looks for `libgfortran.so.5` in its own folder. MLX's wheel ships it under another name, so a folder of
links brings both together.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

__all__ = ["DEBIAN", "blas_environment"]

DEBIAN = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH")) / "openblas-pthread/libblas.so.3"
WHEEL = "ngsolve-openblas"
TRIAL = """
import ctypes
one, two, product = (ctypes.c_float * 1)(2), (ctypes.c_float * 1)(3), (ctypes.c_float * 1)()
with_factor = ctypes.c_float(1)
here = ctypes.CDLL(None)
here.openblas_get_config
here.cblas_sgemm(101, 111, 111, 1, 1, 1, with_factor, one, 1, two, 1, ctypes.c_float(0), product, 1)
assert product[0] == 6
"""
"""The program that a process with OpenBLAS runs as a trial: the loader ignores a library that it cannot load."""
TRIAL_TIMEOUT = 20.0
"""The time limit of the trial, in seconds."""


def blas_environment() -> dict[str, str]:
    """Return the variables to start a computing process with: those of OpenBLAS on Linux where one works, else none."""
    if sys.platform != "linux":
        return {}
    return next((variables for variables in _candidates() if _works(variables)), {})


def _candidates() -> Iterator[dict[str, str]]:
    """Yield the variables for each OpenBLAS that is installed; libraries that the operator preloads stay preloaded."""
    if DEBIAN.exists():
        yield _preloading(DEBIAN)
    if library := next(_files(WHEEL, "ngsolve_openblas/libopenblas*.so*"), None):
        with contextlib.suppress(OSError):  # no room, or no folder to write in
            # Its threads do not yield while they wait: on a busy machine, one for each core is slower than one in all.
            threads = os.environ.get("OPENBLAS_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // 2))
            yield _preloading(_linked(library)) | {"OPENBLAS_NUM_THREADS": threads}


def _preloading(library: Path) -> dict[str, str]:
    others = [path for path in os.environ.get("LD_PRELOAD", "").split(":") if path and path != str(library)]
    return {"LD_PRELOAD": ":".join([str(library), *others])}


def _files(distribution: str, pattern: str) -> Iterator[Path]:
    """Yield the files of an installed package that match a pattern; nothing where it is not installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        yield from Path(str(metadata.distribution(distribution).locate_file(""))).glob(pattern)


def _linked(library: Path) -> Path:
    """Return the path of OpenBLAS in a folder where the libraries that it needs have the names that it looks for."""
    links = {"libopenblas.so.0": library}
    for needed in _files("mlx-cpu", "mlx_cpu.libs/lib[gq]*"):  # libgfortran asks for libquadmath by MLX's name for it
        links["libgfortran.so.5" if needed.name.startswith("libgfortran") else needed.name] = needed
    if not _folder().is_dir():  # a cleaner of old files took it
        _folder.cache_clear()
    folder = _folder()
    for name, target in links.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    return folder / "libopenblas.so.0"


@functools.cache
def _folder() -> Path:
    """Return a folder that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="ltx-blas-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _works(variables: dict[str, str]) -> bool:
    """Return whether a process that is started with these variables computes with OpenBLAS."""
    command = [sys.executable, "-I", "-S", "-c", TRIAL]
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command,
            env=os.environ | variables,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            timeout=TRIAL_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
