"""Provide what a laptop needs: the `ltx` command, the Python API, and the wire contract.

    from ltx_client import Farm

    Farm().render("a red ball rolls to the right on a navy background").wait().download("ball.mp4")

`AsyncFarm` is the same for programs with an event loop. The errors that they raise are exported here too, below
`FarmError`; `ltx_client.errors` shows their tree.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltx_client.errors import (
        BrokerError,
        BrokerUnreachable,
        FarmError,
        IdUsed,
        JobCancelled,
        JobConflict,
        JobFailed,
        JobNotFound,
        StorageUnreachable,
        Unreachable,
        UsageError,
    )
    from ltx_client.farm.async_farm import AsyncFarm, AsyncRender
    from ltx_client.farm.farm import Farm
    from ltx_client.farm.render import Render

__all__ = [
    "AsyncFarm",
    "AsyncRender",
    "BrokerError",
    "BrokerUnreachable",
    "Farm",
    "FarmError",
    "IdUsed",
    "JobCancelled",
    "JobConflict",
    "JobFailed",
    "JobNotFound",
    "Render",
    "StorageUnreachable",
    "Unreachable",
    "UsageError",
]

_HOMES = {
    "AsyncFarm": "ltx_client.farm.async_farm",
    "AsyncRender": "ltx_client.farm.async_farm",
    "Farm": "ltx_client.farm.farm",
    "Render": "ltx_client.farm.render",
}
"""The modules of exported names that are not errors."""


def __getattr__(name: str) -> Any:
    """Import and return an exported name. Imports are late, since a worker needs only the wire contract."""
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "ltx_client.errors")), name)
    raise AttributeError(f"module 'ltx_client' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
