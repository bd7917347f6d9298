"""The file that tells a service where its farm is. It holds passwords, and so nobody else may read it."""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values

from ltx_client.protocol.redaction import hide_environment_secrets

__all__ = ["ENVIRONMENT", "UnsafeFile", "environment_text", "given_settings", "load_environment", "settings_in"]

ENVIRONMENT = Path("/etc/ltx-farm/worker.env")

_HEAD = """\
# Where the farm is, read by the worker at each start: NAME='value', a line each. Mode 0600: it holds passwords.
# LTX_BROKER_URL='rediss://worker:PASSWORD@HOST:6380/0'
# LTX_BROKER_CA='/etc/ltx-farm/ca.crt'
# LTX_STORAGE_URL='/Volumes/farm'
"""
_NOT_FOR_A_SERVICE = {"LTX_HOME"}


class UnsafeFile(Exception):
    """A file of secrets that others can read, or that cannot be read: which, and what to do."""


def given_settings(environment: dict[str, str]) -> dict[str, str]:
    """What of an environment a worker reads: the farm's settings, the storage's keys, where models lie."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith(("LTX_", "AWS_", "HF_")) and name not in _NOT_FOR_A_SERVICE and value
    }


def environment_text(settings: dict[str, str]) -> str:
    """The file's text. Raises ValueError for a value that no line can hold."""
    lines = []
    for name, value in settings.items():
        if "\n" in value or "\0" in value:
            raise ValueError(f"{name} has a line break in it, which {ENVIRONMENT.name} cannot hold")
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"{name}='{quoted}'\n")
    return _HEAD + "".join(lines)


def load_environment(path: Path) -> None:
    """Puts the file's settings into this process's environment, before those that are there. Raises UnsafeFile."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    if mode & 0o077:
        raise UnsafeFile(f"{path} holds passwords, and others may read it; chmod 600 {path}")
    os.environ.update(settings_in(path))
    hide_environment_secrets(os.environ)


def settings_in(path: Path) -> dict[str, str]:
    """Return what the file says, as a worker reads it; nothing that is empty. Raises UnsafeFile."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # with a mark at its beginning, as some editors put there
            values = dotenv_values(stream=file, interpolate=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise UnsafeFile(f"cannot read {path}: it is not in UTF-8; save it so") from error
    return {name: value for name, value in values.items() if value}


def _unreadable(path: Path, error: OSError) -> UnsafeFile:
    what = "; use sudo, or let the service's user enter its folder" if isinstance(error, PermissionError) else ""
    return UnsafeFile(f"cannot read {path}: {error.strerror}{what}")
