"""Check, before anything is rendered, where a person's outputs are written: to a file, a folder or standard output."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ltx_client.errors import UsageError
from ltx_models.files.output_files import MP4, STDERR, STDOUT, Content, descriptor, destination, kind_of, writing

__all__ = [
    "JPEG",
    "MP4",
    "PLOT",
    "Content",
    "check_folder",
    "check_is_folder",
    "check_output",
    "given_path",
    "is_folder",
    "is_stdout",
    "make_folder",
    "output_path",
    "place_of",
    "waits_for_reader",
    "write_output",
]

JPEG = Content("a JPEG", (".jpg", ".jpeg"))
PLOT = Content("a PNG", (".png",))


def given_path(text: str) -> str:
    """Return the path that a person gave for an output; `-` is standard output.

    Raises:
        UsageError: It is empty.
    """
    if not text:
        raise UsageError("the output has an empty name; name a file or a folder, or - for standard output")
    return str(STDOUT) if text == "-" else text


def output_path(given: str, content: Content) -> Path:
    """Return the path of the file that a person named for an output.

    Raises:
        UsageError: It cannot be written.
    """
    path = Path(given_path(given))
    if is_folder(given):
        raise UsageError(f"{given} is a folder; name a file in it")
    check_output(path, content)
    return path


def is_folder(given: str) -> bool:
    """Return whether a path can only mean a folder, which need not exist."""
    return given.endswith(("/", "/.", "/..")) or given in (".", "..") or os.path.isdir(given)  # noqa: PTH112


def place_of(path: Path) -> str:
    """Return a key that is the same for two paths to one file, existing or not: through links, `..` and the like."""
    try:
        return os.path.realpath(path)
    except OSError:  # the current folder was removed
        return os.path.normpath(path)


def is_stdout(path: Path | None) -> bool:
    """Return whether the path is standard output, so that nothing else may be written there."""
    try:
        return path is not None and descriptor(destination(path)) == descriptor(STDOUT)
    except OSError:
        return False


def waits_for_reader(path: Path) -> bool:
    """Return whether a path leads to a named pipe, in which nothing is written before somebody reads it."""
    try:
        return descriptor(destination(path)) is None and stat.S_ISFIFO(kind_of(path))
    except OSError:
        return False


def check_output(path: Path, content: Content, *, folder_is_made: bool = False) -> None:
    """Check that content can be written to a path, as far as that is known beforehand.

    Args:
        path: The output.
        content: What is to be written.
        folder_is_made: Whether its folder will be created, and so need not exist.

    Raises:
        UsageError: It cannot be written there.
    """
    try:
        there = destination(path)
        number = descriptor(there)
        kind = stat.S_IFCHR if number is not None else kind_of(there)
    except OSError as error:
        raise _cannot(path, error) from None
    if number is not None:
        _check_open_file(path, number)
    elif kind == stat.S_IFDIR:
        raise UsageError(f"{path} is a folder; name a file in it")
    elif kind == stat.S_IFSOCK:
        raise UsageError(f"{path} is a socket, in which nothing can be written; name a file, a pipe or a device")
    elif kind in (0, stat.S_IFREG):
        if why := content.why_not(path):
            raise UsageError(why)
        if not folder_is_made:
            check_is_folder(there.parent, path.name)
        check_folder(there.parent)
    if number is None and kind and not os.access(there, os.W_OK):
        raise UsageError(f"{path} is write-protected, or another user's; name another file")
    if kind == stat.S_IFCHR and _is_terminal(there, number):
        raise UsageError(f"{content.words} is not text, so it is not written to a terminal; name a file, or pipe it on")


def write_output(path: Path, data: bytes, *, wait: bool = True) -> None:
    """Write an output, as `writing` does.

    Args:
        path: The output.
        data: Its content.
        wait: Whether to wait for the reader of a named pipe; otherwise nothing is written if there is no reader.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        with writing(path, wait=wait) as file:
            file.write(data)
    except OSError as error:
        if error.errno == errno.ENXIO and not wait:
            return
        raise _cannot(path, error) from None


def make_folder(folder: Path) -> None:
    """Create a folder for outputs, unless it exists.

    Raises:
        UsageError: It cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be created: {error.strerror}") from None


def check_folder(folder: Path) -> None:
    """Check that files can be written into a folder, which need not exist yet.

    Raises:
        UsageError: They cannot.
    """
    try:
        while not (kind := kind_of(folder)) and not folder.is_symlink():
            folder = folder.parent
    except OSError as error:
        raise _cannot(folder, error) from None
    if kind != stat.S_IFDIR:
        raise UsageError(f"{folder} is not a folder, so no videos can be written into it; name another one")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"this user cannot write into the folder {folder}; name another one")


def check_is_folder(folder: Path, name: str) -> None:
    """Check that a folder exists.

    Raises:
        UsageError: It does not exist, so `name` cannot be written there.
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - pathlib's own raises for a long name
        tilde = "; the shell replaces ~ only where it is not quoted" if str(folder).startswith("~") else ""
        raise UsageError(f"the folder {folder} does not exist, so {name} cannot be written there{tilde}")


def _check_open_file(path: Path, number: int) -> None:
    """Raise UsageError unless an inherited file descriptor is open for writing and not used for messages."""
    import fcntl

    if number == descriptor(STDERR):
        raise UsageError(f"{path} is where messages go; name a file, or - for standard output")
    try:
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
    except (OSError, OverflowError):
        raise UsageError(f"{_open_name(path, number)} is closed; name a file") from None
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise UsageError(f"{_open_name(path, number)} is not open for writing; name a file")


def _open_name(path: Path, number: int) -> str:
    return "standard output" if number == descriptor(STDOUT) else str(path)


def _is_terminal(path: Path, number: int | None) -> bool:
    if number is not None:
        return os.isatty(number)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise _cannot(path, error) from None
    try:
        return os.isatty(handle)
    finally:
        os.close(handle)


def _cannot(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write {path}: {error.strerror or error}")
