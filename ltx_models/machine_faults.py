"""Decide whose fault an error is: this machine's, or perhaps that of the render. No other module decides this.

A fault of the machine is recognized by an error's number, by its class, or by the last output of a process that died.
"""

from __future__ import annotations

import errno
import re

from ltx_models.errors import FaultKind, MachineFault, ModelError

__all__ = ["fault_in_output", "kind_in_output", "machine_fault"]

ERRORS: dict[FaultKind, str] = {
    FaultKind.SPACE: "ENOSPC EDQUOT EFBIG",
    FaultKind.ACCESS: "EACCES EPERM EROFS",
    FaultKind.FOLDER: "ENOENT ENOTDIR",
    FaultKind.FILES: "EMFILE ENFILE",
    FaultKind.DISK: "EIO ENXIO ENODEV ESTALE EUCLEAN EREMOTEIO ENOTCONN",
    FaultKind.MEMORY: "ENOMEM",
}
"""The names of operating system errors that show a fault of the machine, where the system has them. The inputs of a
render are local copies, so a file that cannot be found or read is the machine's fault too.
"""
KIND_OF = {
    getattr(errno, name): kind for kind, names in ERRORS.items() for name in names.split() if hasattr(errno, name)
}

SIGNS: dict[str, tuple[FaultKind, str]] = {
    # Metal's codes of a command buffer that failed, as MLX words them; the last: a buffer failed due to another.
    r"kIOGPUCommandBufferCallbackErrorOutOfMemory|Insufficient Memory": (
        FaultKind.MEMORY,
        "the GPU ran out of memory",
    ),
    r"kIOGPUCommandBufferCallbackError(Timeout|Hang)|Caused GPU (Timeout|Hang) Error": (
        FaultKind.GPU,
        "the GPU took too long",
    ),
    r"kIOGPUCommandBufferCallbackErrorImpactingInteractivity|Impacting Interactivity": (
        FaultKind.DISPLAY,
        "macOS ended the work for the display, which shares the GPU; let the display sleep (pmset displaysleepnow), or"
        " set LTX_WORKER_UNUSED_FOR=300",
    ),
    r"kIOGPUCommandBufferCallbackError(InnocentVictim|SubmissionsIgnored)|Innocent Victim": (
        FaultKind.GPU,
        "the GPU was reset",
    ),
    # MLX's allocators and CUDA
    r"\[metal::malloc\]|\[malloc\]|\[malloc_or_wait\]|cudaErrorMemoryAllocation|\b[Oo]ut of memory": (
        FaultKind.MEMORY,
        "memory ran out",
    ),
    r"Unable to allocate|\bMemoryError\b|std::bad_alloc|[Cc]annot allocate memory|can't start new thread": (
        FaultKind.MEMORY,
        "memory ran out",
    ),
    r"CUDA error: (unspecified launch failure|an illegal instruction|uncorrectable ECC)|Xid": (
        FaultKind.GPU,
        "the GPU failed",
    ),
    # Python's and other programs' words for a system's errors
    r"No space left on device|[Dd]isk quota exceeded": (FaultKind.SPACE, "a disk is full"),
    r"Too many open files": (FaultKind.FILES, "too many files are open"),
    r"Read-only file system|\[Errno 13\]|\[Errno 1\]": (FaultKind.ACCESS, "access to a file or folder is denied"),
    r"Input/output error": (FaultKind.DISK, "a disk failed"),
    r"\b(ModuleNotFoundError|ImportError):|Library not loaded|cannot open shared object file": (
        FaultKind.SOFTWARE,
        "the installation is incomplete",
    ),
}
"""Patterns of an error's text, or of a process's last output; the kind of fault that each shows; and its message."""


def machine_fault(error: BaseException) -> MachineFault | None:
    """Return the fault of this machine that an error shows, or None where the render may be the cause.

    Follow the causes (`__cause__`) of errors that the model library raises on purpose.
    """
    told: BaseException | None = error
    while told is not None:
        if isinstance(told, MachineFault):
            return told if told is error else MachineFault(_text(error), told.kind, confirmed=told.confirmed)
        if kind := _kind_of(told):
            return MachineFault(_text(error), kind)
        told = told.__cause__ if isinstance(told, ModelError) else None
    return None


def fault_in_output(text: str) -> MachineFault | None:
    """Return the fault of this machine that a program's last output shows, or None."""
    found = next((row for sign, row in SIGNS.items() if re.search(sign, text)), None)
    return MachineFault(found[1], found[0]) if found else None


def kind_in_output(text: str) -> FaultKind | None:
    """Return the kind of fault that a program's last output shows, or None."""
    found = fault_in_output(text)
    return found.kind if found else None


def _kind_of(error: BaseException) -> FaultKind | None:
    if isinstance(error, OSError):
        return KIND_OF.get(error.errno) if error.errno is not None else None
    if isinstance(error, MemoryError):
        return FaultKind.MEMORY
    if isinstance(error, ImportError):
        return FaultKind.SOFTWARE
    if isinstance(error, RuntimeError):  # MLX's, and Python's where no thread can be started
        return kind_in_output(str(error))
    return None


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
