"""Check whether a broker, once restarted, has everything that it has logged.

Redis, and Valkey before 9, load the append-only file as the user `default`, and check each command of a transaction
against that user's rights. What a script writes is logged as a transaction: everything about a job. A server whose
default user is off *and without rights* starts, logs an error, and has lost every job. A command that the configuration
has renamed is in the log by its first name, and then the server does not start.
"""

from __future__ import annotations

import redis

from ltx_client.protocol.names import Names
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.doctor.checks import Finding, Level

__all__ = ["LOGGED", "USERS", "examine_replay"]

ABOUT = "restart"
LOGGED = {
    "DEL": [],
    "HDEL": ["field"],
    "HINCRBY": ["field", "1"],
    "HSET": ["field", "value"],
    "HSETNX": ["field", "value"],
    "LPOP": [],
    "LPUSH": ["item"],
    "LREM": ["1", "item"],
    "LTRIM": ["0", "1"],
    "PERSIST": [],
    "PEXPIREAT": ["1"],
    "RPOP": [],
    "RPUSH": ["item"],
    "SADD": ["member"],
    "SET": ["value"],
    "UNLINK": [],
    "XADD": ["*", "field", "value"],
    "ZADD": ["1", "member"],
    "ZREM": ["member"],
    "ZREMRANGEBYSCORE": ["0", "1"],
}
"""The commands that change a farm's data, as a server logs them, with the arguments after the key."""
USERS = (
    "run deploy/users.sh again on the broker's machine, and then ACL LOAD as admin, before the broker is restarted"
    " (deploy/README.md, Users of an older version)"
)


def examine_replay(client: redis.Redis, names: Names) -> Finding:
    """Return whether the broker can load everything that it logs, as far as this user can see. Changes nothing.

    Raises:
        redis.RedisError: The broker did not answer.
    """
    with client.pipeline(transaction=False) as pipeline:
        for command, words in LOGGED.items():
            pipeline.execute_command("ACL DRYRUN", "default", command, names.job("doctor"), *words)
        answers = dict(zip(LOGGED, pipeline.execute(raise_on_error=False), strict=True))
    errors = [answer for answer in answers.values() if isinstance(answer, Exception)]
    hidden = [error for error in errors if isinstance(error, redis.exceptions.NoPermissionError)]
    if away := next((error for error in errors if error not in hidden and is_outage(error)), None):
        raise away
    if hidden:
        text = "whether a restart of the broker loses its jobs is hidden from this user, who may not use ACL DRYRUN"
        return Finding(ABOUT, Level.FAILURE, text, USERS)
    if len(errors) == len(LOGGED):  # Redis before 7.0 has no such command, and does not check what it loads
        return Finding(ABOUT, Level.OK, "this server loads its log without checking rights")
    if unknown := [name for name, answer in answers.items() if isinstance(answer, Exception)]:
        text = f"the broker cannot load its log at a restart: it has no command called {_some(unknown)}"
        return Finding(ABOUT, Level.FAILURE, text, "remove rename-command from its configuration")
    if lacking := [name for name, answer in answers.items() if answer not in (b"OK", "OK")]:
        text = f"a restart of the broker loses its jobs: its user default may not run {_some(lacking)}"
        return Finding(ABOUT, Level.FAILURE, text, USERS)
    return Finding(ABOUT, Level.OK, "loads all that it has logged")


def _some(commands: list[str]) -> str:
    shown = ", ".join(commands[:3])
    return f"{shown} and {len(commands) - 3} more" if len(commands) > 3 else shown
