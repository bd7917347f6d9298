"""Fetching a finished video from the farm's storage."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import fsspec

from ltx_client.errors import StorageUnreachable, UsageError
from ltx_client.protocol.events import Result

__all__ = ["download"]

CHUNK = 1 << 20


def download(storage_url: str, result: Result, target: Path) -> None:
    """Copies `result.video` to `target`: under a temporary name, verified, then renamed.

    Raises StorageUnreachable when the file cannot be read or is not what was committed, UsageError when
    `target` cannot be written.
    """
    source = f"{storage_url.rstrip('/')}/{result.video}"
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        digest = _copy(source, temporary)
        if digest != result.sha256:
            raise StorageUnreachable(
                f"{source} is not the video that was committed (its SHA-256 differs); it was changed or cut short"
            )
        temporary.replace(target)
    except OSError as error:
        if error.filename is not None and Path(str(error.filename)) in (temporary, target):
            raise UsageError(f"cannot write {target}: {error.strerror}") from error
        raise StorageUnreachable(
            f"cannot read {source}: {error}; is LTX_STORAGE_URL the one that the workers use?"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy(source: str, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("xb") as output, fsspec.open(source, "rb") as video:
        while chunk := video.read(CHUNK):
            digest.update(chunk)
            output.write(chunk)
    return digest.hexdigest()
