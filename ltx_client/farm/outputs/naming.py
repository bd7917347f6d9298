"""Interpret `-o`, for one video and for those of a batch."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ltx_client.errors import UsageError
from ltx_client.farm.outputs.names import BATCH_NAMES, default_name, short_id
from ltx_client.farm.outputs.paths import (
    MP4,
    check_folder,
    check_is_folder,
    check_output,
    given_path,
    is_folder,
    is_stdout,
    place_of,
)
from ltx_client.farm.outputs.templates import Template, fields_of, safe_name
from ltx_client.protocol.jobs import Job

__all__ = ["BatchOutput", "VideoOutput", "video_path"]


def video_path(path: Path, job_id: str) -> Path:
    """Return the path of a job's video, with its default name if `path` is a folder.

    Raises:
        UsageError: It cannot be written.
    """
    if os.path.isdir(path):  # noqa: PTH112 - pathlib's own raises for a long name
        path = path / default_name(job_id)
    check_output(path, MP4)
    return path


class VideoOutput:
    """The output of one video: standard output (`-`), a file, a folder, or a template."""

    def __init__(self, given: str | None = None) -> None:
        """Check what a person gave; None is the current folder.

        Raises:
            UsageError: It is invalid for any job.
        """
        given = "." if given is None else given_path(given)
        self._template = Template.parse(given)
        folder = self._template.folder
        if self._template.names or is_folder(given):
            check_is_folder(folder, (*self._template.names, "a video")[-1])
        else:
            check_output(folder, MP4)

    def path(self, job: Job, at: float, index: int | None = None) -> Path:
        """Return the path of a job's video.

        Args:
            job: The job.
            at: When it was submitted, in seconds since 1970.
            index: Its place in a batch, from 1.

        Raises:
            UsageError: It cannot be written.
        """
        if not self._template.names:
            return video_path(self._template.folder, job.id)
        path = self._template.path(fields_of(job, at, index))
        check_output(path, MP4, folder_is_made=True)
        return path


@dataclass(frozen=True)
class BatchOutput:
    """The output of a batch's videos: a folder, which is created, and a template for the names inside it."""

    folder: Path
    names: tuple[str, ...] = (BATCH_NAMES,)

    @classmethod
    def parse(cls, given: str) -> BatchOutput:
        """Return the output that a person named: a folder or a template.

        Raises:
            UsageError: It is invalid.
        """
        text = given_path(given)
        if is_stdout(Path(text)):
            raise UsageError("a batch has several videos, and standard output takes one; name a folder")
        template = Template.parse(text)
        check_folder(template.folder)
        return cls(template.folder, template.names) if template.names else cls(template.folder)

    @classmethod
    def default(cls, batch_id: str) -> BatchOutput:
        """Return the output of a batch for which a person named none.

        Raises:
            UsageError: It is invalid.
        """
        folder = Path(safe_name(f"ltx-{short_id(batch_id)}"))  # an id that somebody else may have written
        check_folder(folder)
        return cls(folder)

    def paths(self, jobs: Iterable[tuple[Job, float, int]]) -> list[Path]:
        """Return a path for each job, no two of them the same on any file system.

        Args:
            jobs: Jobs, each with `at` and `index` of `fields_of`.

        Raises:
            UsageError: One cannot be written, or two would be the same.
        """
        template = Template(self.folder, self.names)
        paths: list[Path] = []
        taken: dict[str, int] = {}
        for job, at, index in jobs:
            path = template.path(fields_of(job, at, index))
            check_output(path, MP4, folder_is_made=True)
            first = taken.setdefault(unicodedata.normalize("NFC", place_of(path)).casefold(), index)
            if first != index:
                raise UsageError(f"videos {first} and {index} would both be {path}; add {{index}}, {{seed}} or {{id}}")
            paths.append(path)
        return paths
