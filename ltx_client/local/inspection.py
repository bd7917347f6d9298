"""Compare a newly started server with its settings, before it is used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import redis

from ltx_client.local.address import Address

__all__ = ["listening", "why_unfit"]


def listening(pid: int) -> set[tuple[str, int]]:
    """Return the addresses and ports at which a process accepts connections, as the operating system knows them."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.NoSuchProcess:
        return set()
    return {(end.laddr.ip, end.laddr.port) for end in connections if end.status == psutil.CONN_LISTEN}


def why_unfit(pid: int, address: Address, settings: dict[str, str], folder: Path) -> str | None:
    """Return how a server differs from its settings; None if it may be used.

    The caller knows already that this process alone listens at the address: the password is sent there.
    """
    where = psutil.Process(pid).cwd()
    if not Path(where).samefile(folder):
        return f"it works in {where}, not in {folder}"
    with address.connect(anonymous=True) as nobody:
        try:
            nobody.ping()
            return "it needs no password"
        except redis.AuthenticationError:
            pass
    with address.connect() as client:
        for name, told in settings.items():
            found = _setting(client, name)
            if found != told:
                return f"its {name} differs" if name == "requirepass" else f"its {name} is {found!r}, not {told!r}"
    return None


def _setting(client: redis.Redis, name: str) -> str | None:
    answer: Any = client.config_get(name)
    return next((os.fsdecode(value) for value in answer.values()), None)
