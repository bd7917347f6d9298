"""Read and write the file with a service's settings, which nobody else may read since it contains passwords."""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values

from ltx_client.protocol.redaction import hide_environment_secrets

__all__ = ["ENVIRONMENT", "UnsafeFile", "environment_text", "given_settings", "load_environment", "settings_in"]

ENVIRONMENT = Path("/etc/ltx-farm/worker.env")

_HEAD = """\
# The worker's settings, read at each start: NAME='value', one a line. Mode 0600, since it contains passwords.
# LTX_BROKER_URL='rediss://worker:PASSWORD@HOST:6380/0'
# LTX_BROKER_CA='/etc/ltx-farm/ca.crt'
# LTX_STORAGE_URL='/Volumes/farm'
"""
_NOT_FOR_A_SERVICE = {"LTX_HOME"}


class UnsafeFile(Exception):
    """A file of secrets can be read by others, or cannot be read; the message says which and what to do."""


def given_settings(environment: dict[str, str]) -> dict[str, str]:
    """Return what a worker reads of an environment: the farm's settings, the storage's keys, the models' folder."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith(("LTX_", "AWS_", "HF_")) and name not in _NOT_FOR_A_SERVICE and value
    }


def environment_text(settings: dict[str, str]) -> str:
    """Return the file's text.

    Raises:
        ValueError: a value contains a line break or a null character.
    """
    lines = []
    for name, value in settings.items():
        if "\n" in value or "\0" in value:
            raise ValueError(f"{name} is invalid for {ENVIRONMENT.name}: it has a line break; use a value of one line")
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"{name}='{quoted}'\n")
    return _HEAD + "".join(lines)


def load_environment(path: Path) -> None:
    """Put the file's settings into this process's environment, in place of those that are set there.

    Raises:
        UnsafeFile: others may read the file, or it cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    if mode & 0o077:
        raise UnsafeFile(f"{path} contains passwords, and others may read it; use chmod 600 {path}")
    os.environ.update(settings_in(path))
    hide_environment_secrets(os.environ)


def settings_in(path: Path) -> dict[str, str]:
    """Return the file's settings that are not empty, as a worker reads them.

    Raises:
        UnsafeFile: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors put a byte order mark at its beginning
            values = dotenv_values(stream=file, interpolate=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise UnsafeFile(f"cannot read {path}: it is not in UTF-8; save it in UTF-8") from error
    return {name: value for name, value in values.items() if value}


def _unreadable(path: Path, error: OSError) -> UnsafeFile:
    what = "; use sudo, or let the service's user enter its folder" if isinstance(error, PermissionError) else ""
    return UnsafeFile(f"cannot read {path}: {error.strerror}{what}")
