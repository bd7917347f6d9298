"""faulty://FOLDER: a folder whose filesystem fails as a job's mark says: read-only, full, or in mid-write. Where it
says half or nothing, so much is written, and that all is well.
"""

import errno
import os
import re
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem
from marks import FOLDER, at

JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LIES = ("half", "nothing")


class FaultyFileSystem(LocalFileSystem):
    """As the local filesystem. A file is written in two halves, the phase "uploading" between them."""

    protocol = "faulty"

    def put_file(self, path1, path2, callback=None, **options):
        job, data = _job(path2), Path(path1).read_bytes()
        fault = _fault(job)
        if fault == "read-only":
            _fail(job, errno.EROFS, path2)
        with Path(self._strip_protocol(path2)).open("wb") as file:
            if fault == "full":
                _fail(job, errno.ENOSPC, path2)
            file.write(data[: len(data) // 2])
            file.flush()
            if job:
                at(job, "uploading")
            if fault or (fault := _fault(job)):
                if fault in LIES:
                    file.truncate(0 if fault == "nothing" else None)
                    (FOLDER / f"{job}.failed").touch()
                    return
                _fail(job, errno.ENOSPC if fault == "full" else errno.EIO, path2)
            file.write(data[len(data) // 2 :])

    def rm_file(self, path):
        if _fault(_job(path)) == "read-only":
            _fail(_job(path), errno.EROFS, path)
        super().rm_file(path)


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
