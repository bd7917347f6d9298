"""faulty://FOLDER: a folder whose file system fails as a job's mark says: read-only, full, or in mid-write.

If the mark says half or nothing, only so much is written, without an error.
"""

import errno
import os
import re
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem
from marks import FOLDER, at

from ltx_client.shared.storage import folder as storage_folder

JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LIES = ("half", "nothing")
remove = storage_folder.remove_at


class FaultyFileSystem(LocalFileSystem):
    """The local file system with faults: a storage that is a folder is written by file descriptors."""

    protocol = "faulty"


def copy_in(source, folder, name):
    """Write a file in two halves, the phase "uploading" between them."""
    job, data = _job(name), source.read_bytes()
    fault = _fault(job)
    if fault == "read-only":
        _fail(job, errno.EROFS, name)
    with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder), "wb") as file:
        if fault == "full":
            _fail(job, errno.ENOSPC, name)
        file.write(data[: len(data) // 2])
        file.flush()
        if job:
            at(job, "uploading")
        if fault or (fault := _fault(job)):
            if fault in LIES:
                file.truncate(0 if fault == "nothing" else None)
                (FOLDER / f"{job}.failed").touch()
                return
            _fail(job, errno.ENOSPC if fault == "full" else errno.EIO, name)
        file.write(data[len(data) // 2 :])


def remove_at(root, name):
    """Remove a file, unless the storage is read-only."""
    if _fault(_job(name)) == "read-only":
        _fail(_job(name), errno.EROFS, name)
    remove(root, name)


storage_folder.copy_in = copy_in
storage_folder.remove_at = remove_at


def _job(path):
    match = JOB.search(Path(path).name)
    return match.group() if match else None


def _fault(job):
    try:
        return (FOLDER / f"{job}.storage").read_text()
    except FileNotFoundError:
        return None


def _fail(job, number, path):
    (FOLDER / f"{job}.failed").touch()
    raise OSError(number, os.strerror(number), path)
