"""Passwords that stand in no URL: read from a file or from the user's keychain, and never shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

from ltx_client.protocol.own_files import expanded

__all__ = ["SERVICE", "password_from_file", "password_from_keyring", "with_password"]

SERVICE = "ltx-farm"
"""The service under which the keychain knows the passwords; the account is the farm's name."""


def password_from_file(path: str | Path) -> str:
    """The file's first line. Raises ValueError."""
    path = expanded(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"the broker's password cannot be read from {path}: {reason}") from None
    if not lines or not lines[0].strip():
        raise ValueError(f"the broker's password cannot be read from {path}: its first line is empty")
    return lines[0].strip()


def password_from_keyring(farm: str) -> str:
    """What the user's keychain holds for a farm. Raises ValueError."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise ValueError("the broker's password lies in the keychain; pip install 'ltx-farm[keyring]'") from None
    try:
        password = keyring.get_password(SERVICE, farm)
    except keyring.errors.KeyringError as error:
        raise ValueError(f"the keychain does not give the broker's password: {error}") from None
    if not password:
        raise ValueError(
            f"the keychain has no broker password for {farm!r}; ltx config set broker_password --keyring stores it"
        )
    return password


def with_password(url: str, read: Callable[[], str]) -> str:
    """The URL with the password that `read` gives; one that has a password already keeps it, and nothing is read."""
    parts = urlsplit(url)
    if parts.password:
        return url
    user, at, host = parts.netloc.rpartition("@")
    user = user.rstrip(":") if at else ""
    return parts._replace(netloc=f"{user}:{quote(read(), safe='')}@{host}").geturl()
