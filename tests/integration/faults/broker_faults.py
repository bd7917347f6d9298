"""Faults of a broker: it answers "not now" by the server's own replies, or comes back without its last second.

Each strike has the server for itself while it lasts, so that no other fault occurs in the middle.
"""

import contextlib
import os
import threading
import time

import redis

PAST_LEASE = 1.25
"""How long a refusal lasts, in leases: every owner misses its renewals meanwhile."""
TAIL = 0.5
"""Seconds of the log that are lost."""


def _refuse(begin, end):
    def strike(target):
        with target.farm.server_lock, target.farm.server.address.connect() as client:
            begin(client)
            try:
                target.let_go()
                time.sleep(target.farm.lease * PAST_LEASE)
            finally:
                end(client)

    return strike


def _set(name, bad, good):
    return _refuse(lambda client: client.config_set(name, bad), lambda client: client.config_set(name, good))


def _become_replica(client):
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def _become_primary(client):
    client.execute_command("REPLICAOF", "NO", "ONE")


def _lose_primary(client):
    client.config_set("replica-serve-stale-data", "no")
    _become_replica(client)


def _find_primary(client):
    _become_primary(client)
    client.config_set("replica-serve-stale-data", "yes")


def _take_rights(client):
    client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval", "-publish", "-lpush", "-brpop")


def _give_rights(client):
    client.execute_command("ACL", "SETUSER", "default", "+@all")


def _admit_nobody(client):
    client.config_set("maxclients", "1")
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)


def keep_busy(target):
    """Run a client's script that does not end until it is killed."""
    with target.farm.server_lock, target.farm.server.address.connect() as client:
        client.config_set("busy-reply-threshold", "50")
        caller = threading.Thread(target=_run_endlessly, args=(target.farm.server.address,), daemon=True)
        caller.start()
        target.let_go()
        time.sleep(target.farm.lease * PAST_LEASE)
        with contextlib.suppress(redis.ResponseError):  # it has not begun
            client.script_kill()
        caller.join()
        client.config_set("busy-reply-threshold", "5000")


def _run_endlessly(address):
    with address.connect() as client, contextlib.suppress(redis.RedisError):
        client.connection_pool.connection_kwargs["socket_timeout"] = 60
        client.eval("while true do end", 0)


def lose_log_tail(target):
    """Kill the server, and cut its log to where it ended a moment before; the rest was acknowledged."""
    farm = target.farm
    with farm.server_lock:
        log, size = _log_of(farm)
        target.let_go()
        time.sleep(TAIL)
        farm.kill_server()
        if _log_of(farm)[0] == log:  # else it was rewritten meanwhile
            os.truncate(log, size)
        farm.server.start()


def _log_of(farm):
    log = max(farm.folder.glob("broker/farm/appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime)
    return log, log.stat().st_size


BROKER_FAULTS = {
    "broker's memory full": _set("maxmemory", "1", "0"),
    "broker without its replicas": _set("min-replicas-to-write", "1", "0"),
    "broker read-only": _refuse(_become_replica, _become_primary),
    "broker without its primary": _refuse(_lose_primary, _find_primary),
    "broker busy with a script": keep_busy,
    "broker takes rights away": _refuse(_take_rights, _give_rights),
    "broker admits nobody": _refuse(_admit_nobody, lambda client: client.config_set("maxclients", "10000")),
    "log tail lost at a restart": lose_log_tail,
}
