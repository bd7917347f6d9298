"""Recognize errors of the broker that mean "not now": the same command may succeed later, so it is retried."""

from __future__ import annotations

import re
from collections.abc import Iterator

import redis
from redis import exceptions

__all__ = ["NOT_NOW", "causes", "error_code", "is_outage", "is_without_primary"]

NOT_NOW = {
    "ASK": "is part of a cluster, and the farm needs a server of its own",
    "BUSY": "is busy running somebody's script",
    "CLUSTERDOWN": "is part of a cluster that is down, and the farm needs a server of its own",
    "CROSSSLOT": "is part of a cluster, and the farm needs a server of its own",
    "DENIED": "is in protected mode, and takes no connections from other machines",
    "INPROG": "hands over to another server",
    "IOERR": "cannot read or write its data",
    "LOADING": "is still loading its data",
    "MASTERDOWN": "is a replica that has lost its primary server",
    "MISCONF": "cannot write to its disk, and accepts no writes until it can",
    "MOVED": "is part of a cluster, and the farm needs a server of its own",
    "NOAUTH": "requires a password; set LTX_BROKER_URL or LTX_BROKER_PASSWORD_FILE",
    "NOPERM": "does not let this user do that; check its ACL, the user in LTX_BROKER_URL, and LTX_NAMESPACE",
    "NOREPLICAS": "has too few replicas to accept writes",
    "NOSCRIPT": "has lost a script that it was just sent",
    "OOM": "has no memory left; remove old jobs with ltx gc, or raise its maxmemory",
    "READONLY": "is a read-only replica; LTX_BROKER_URL must name the primary server",
    "REDIRECT": "hands over to another server",
    "TRYAGAIN": "is part of a cluster that is being rearranged, and the farm needs a server of its own",
    "UNBLOCKED": "changed its role during a blocking command",
    "WRONGPASS": "refused the user name or password; check LTX_BROKER_URL",
}
"""Codes with which a server refuses a command that it accepts at other times, or that an operator can make it accept.

Each value continues the sentence "the broker at …".
"""

_BY_CLASS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.NoScriptError, "NOSCRIPT"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.MovedError, "MOVED"),
    (exceptions.AskError, "ASK"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.ExecAbortError, "EXECABORT"),
    (exceptions.AuthenticationError, "WRONGPASS"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "WRONGPASS"),
)
"""Codes of the errors from whose text redis-py removes the code; only its later versions keep it elsewhere."""

_LEADING = re.compile(r"-?([A-Z][A-Z0-9]{2,})\b")
_WITHIN = re.compile(r"(?:(?<=because of: )|(?<=: -)|(?<=: )|(?<=^-))(" + "|".join(NOT_NOW) + r")\b")
"""Matches a code inside another error: of a script in older servers, or of a transaction."""
_SCRIPT_USER = "The user executing the script"
"""The beginning of a script's error whose user lacks a right."""


def is_outage(error: BaseException) -> bool:
    """Return whether the broker does not answer, or answers that it cannot do this now."""
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | redis.InvalidResponse):
        return True
    if isinstance(error, redis.ResponseError | exceptions.ClusterError):
        return error_code(error) in NOT_NOW
    if type(error).__module__ == "kombu.exceptions":  # which wraps them; not imported, since that is slow
        inner = [cause for cause in causes(error) if cause is not error]
        return any(is_outage(cause) for cause in inner) or (
            type(error).__name__ == "OperationalError" and not any(isinstance(one, redis.RedisError) for one in inner)
        )
    return False


def is_without_primary(error: BaseException) -> bool:
    """Return whether no sentinel has named a broker that is up."""
    return type(error).__name__ == "MasterNotFoundError"  # asyncio's client has a class of its own, slow to import


def error_code(error: BaseException) -> str:
    """Return the code of an error reply, such as OOM, also inside the error of a script or a transaction.

    For any other error, return the name of its class.
    """
    if not isinstance(error, redis.RedisError):
        return type(error).__name__
    text = str(error).rpartition("of pipeline caused error: ")[2]
    code = str(getattr(error, "status_code", None) or "")
    if code in ("", "ERR"):
        code = next((code for kind, code in _BY_CLASS if isinstance(error, kind)), code)
    if not code and (leading := _LEADING.match(text)):
        code = leading[1]
    if code in ("", "ERR", "EXECABORT"):
        if inner := _WITHIN.search(text):
            return inner[1]
        if _SCRIPT_USER in text:
            return "NOPERM"
    return code or type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, its cause, the cause of that, and so on."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
