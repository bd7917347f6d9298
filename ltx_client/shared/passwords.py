"""Read passwords that are not in a URL, from a file or from the user's keychain. They are never shown."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ltx_client.shared.broker.url import Broker
from ltx_client.shared.own_files import expanded

__all__ = ["SERVICE", "password_from_file", "password_from_keyring", "with_password"]

SERVICE = "ltx-farm"
"""The service under which the keychain stores the passwords; the account is the farm's name."""
LARGEST = 64 * 1024
"""Bytes of a file with a password, at most."""


def password_from_file(path: str | Path) -> str:
    """Return a file's first line, whatever ends it.

    Raises:
        ValueError: The file cannot be read, or has no valid first line.
    """
    try:
        path = expanded(path)
        if not path.is_file() and path.exists():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            line = _first_line(file.read(LARGEST + 1))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"the broker's password cannot be read from {path}: {reason}") from None
    return line


def _first_line(content: bytes) -> str:
    if len(content) > LARGEST:
        raise ValueError("it is too large for a password")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16; save it as UTF-8")
    try:
        line = re.split("[\r\n]", content.decode("utf-8-sig"), maxsplit=1)[0].strip()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if "\0" in line:
        raise ValueError("its first line has a NUL character in it; save it as UTF-8 text")
    if not line:
        raise ValueError("its first line is empty")
    return line


def password_from_keyring(farm: str) -> str:
    """Return the password that the user's keychain stores for a farm.

    Raises:
        ValueError: The keychain cannot be used, or has no password.
    """
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise ValueError("the broker's password is stored in the keychain; pip install 'ltx-farm[keyring]'") from None
    try:
        password = keyring.get_password(SERVICE, farm)
    except keyring.errors.KeyringError as error:
        raise ValueError(f"the keychain did not return the broker's password: {error}") from None
    if not password:
        raise ValueError(
            f"the keychain has no broker password for {farm!r}; ltx config set broker_password --keyring stores it"
        )
    return password


def with_password(broker: Broker, read: Callable[[], str]) -> Broker:
    """Return the broker with the password that `read` returns; a broker that has one keeps it, and nothing is read."""
    return broker if broker.password else replace(broker, password=read())
