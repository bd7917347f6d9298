"""Check the broker, for doctors of clients and workers alike."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from pydantic import SecretStr

from ltx_client.protocol.names import Names
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.broker.certificate import WARN_BEFORE, broker_certificate
from ltx_client.shared.broker.outages import causes, is_outage
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.doctor.checks import Check, Finding, Level
from ltx_client.shared.doctor.replay_check import examine_replay
from ltx_client.shared.live_workers import live_workers
from ltx_client.shared.unexpected_data import is_wrong_type

__all__ = ["BrokerChecks"]

SLOW = 0.1
"""Seconds of a round trip from which on it is a warning."""
SKEW = 5.0
"""Seconds by which two clocks may differ before the times that people read are misleading."""
OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
"""The oldest versions that the farm is tested with, or close to them."""
CONF = "set it in the broker's redis.conf, as in deploy/redis.conf; until its next restart: "


class BrokerChecks:
    """Checks of the broker. Nothing is written to it."""

    def __init__(self, connect: Callable[[], redis.Redis], url: SecretStr, names: Names) -> None:
        """Check the broker that `connect` reaches.

        Args:
            connect: Return a client that has answered, or raise any error whose text says why it cannot.
            url: The broker's URL.
            names: The farm's key names.
        """
        self._connect = connect
        self._broker = Broker.parse(url.get_secret_value())
        self._names = names
        self._address = self._broker.address
        self._client: redis.Redis | None = None
        self._logs = False

    def checks(self) -> list[Check]:
        """Return all checks in the order of a report. If the broker is out of reach, only that is found."""
        return [
            self.broker,
            self.encryption,
            self.certificate,
            self.version,
            self.logging,
            self.syncing,
            self.replay,
            self.memory,
            self.clock,
            self.keys,
            self.rights,
        ]

    @property
    def client(self) -> redis.Redis | None:
        """Return the connection, once `broker` has found that it works."""
        return self._client

    def live_workers(self) -> list[WorkerInfo]:
        """Return the live workers; none if the broker does not answer, or this user may not see them (see `rights`)."""
        if self._client is None:
            return []
        try:
            return live_workers(self._client, self._names)
        except redis.exceptions.NoPermissionError:
            return []

    def broker(self) -> Iterator[Finding]:
        """Check whether the broker answers, and how fast."""
        try:
            self._client = self._connect()
            began = time.monotonic()
            self._client.ping()
            took = time.monotonic() - began
        except Exception as error:  # noqa: BLE001 - whatever it is, this is the finding
            if any(isinstance(cause, redis.AuthenticationError) for cause in causes(error)):
                fix = "correct the user or password where it is set: in the URL, or in the file with the password"
            else:
                fix = "start it, or ltx config set broker_url redis://USER@HOST:PORT/0"
            yield Finding("broker", Level.FAILURE, str(error), fix)
            return
        level = Level.WARNING if took > SLOW else Level.OK
        fix = "check the network between this machine and the broker" if took > SLOW else ""
        yield Finding("broker", level, f"{self._address} answers in {took * 1000:.1f} ms", fix)

    def encryption(self) -> Iterator[Finding]:
        """Check whether somebody on the network could read what is sent."""
        if self._client is None or self._is_private:
            return
        if self._broker.tls:
            yield Finding("encryption", Level.OK, "TLS")
        else:
            yield Finding(
                "encryption",
                Level.WARNING,
                f"passwords and prompts go to {self._address} unencrypted",
                f"set up TLS as deploy/ says, then ltx config set broker_url {self._broker.other_scheme}://…",
            )

    def certificate(self) -> Iterator[Finding]:
        """Check whether the broker's certificate expires soon. If it has expired, `broker` fails already."""
        if self._client is None or (found := broker_certificate(self._client)) is None:
            return
        left = found.ends - time.time()
        day = time.strftime("%d %b %Y", time.gmtime(found.ends))
        text = f"{found.of} expires on {day}, in {max(left, 0) / 86400:,.0f} days"
        if left > WARN_BEFORE:
            yield Finding("certificate", Level.OK, text)
        else:
            level = Level.WARNING if left > 0 else Level.FAILURE
            yield Finding("certificate", level, f"{text}; after that nobody trusts the broker", found.fix)

    def version(self) -> Iterator[Finding]:
        """Check whether the server's version is one that the farm is tested with."""
        if (info := self._info("server", "version")) is None:
            return
        if isinstance(info, Finding):
            yield info
            return
        name = str(info.get("server_name", "redis"))
        text = str(info.get("valkey_version") or info.get("redis_version"))
        number = tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
        if number < OLDEST.get(name, (0, 0)):
            oldest = ".".join(map(str, OLDEST[name]))
            yield Finding("version", Level.WARNING, f"{name} {text} is untested", f"upgrade it to {oldest} or later")
        else:
            yield Finding("version", Level.OK, f"{name} {text}")

    def logging(self) -> Iterator[Finding]:
        """Check whether the broker logs its writes."""
        if (info := self._info("persistence", "persistence")) is None:
            return
        if isinstance(info, Finding):
            yield info
        elif not info.get("aof_enabled"):
            yield Finding(
                "persistence",
                Level.FAILURE,
                "append-only is off: jobs are lost when the broker ends",
                f"{CONF}redis-cli CONFIG SET appendonly yes",
            )
        elif info.get("aof_last_write_status", "ok") != "ok":
            yield Finding("persistence", Level.FAILURE, "the broker cannot write its append-only file", "free its disk")
        else:
            self._logs = True

    def syncing(self) -> Iterator[Finding]:
        """Check whether logged writes are lost when the broker's machine loses power."""
        if not self._logs:
            return
        policy = self._config("appendfsync")
        if policy in ("always", None):
            shown = f"append-only, appendfsync {policy}" if policy else "append-only; appendfsync is not visible"
            yield Finding("persistence", Level.OK, shown)
        else:
            lost = "a second of jobs" if policy == "everysec" else "what the system has not written yet"
            yield Finding(
                "persistence",
                Level.WARNING,
                f"appendfsync is {policy}: {lost} is lost when the broker's machine loses power",
                f"{CONF}redis-cli CONFIG SET appendfsync always",
            )

    def replay(self) -> Iterator[Finding]:
        """Check whether the broker can load its log."""
        if self._client is not None:
            yield examine_replay(self._client, self._names)

    def memory(self) -> Iterator[Finding]:
        """Check whether the broker drops keys, or refuses them, when its memory is full."""
        if (info := self._info("memory", "eviction")) is None:
            return
        if isinstance(info, Finding):
            yield info
            return
        policy, most, used = str(info.get("maxmemory_policy")), int(info.get("maxmemory", 0)), int(info["used_memory"])
        if policy != "noeviction":
            yield Finding(
                "eviction",
                Level.FAILURE if most else Level.WARNING,
                f"maxmemory-policy is {policy}: jobs vanish when its memory is full",
                f"{CONF}redis-cli CONFIG SET maxmemory-policy noeviction",
            )
        elif most and used > 0.9 * most:
            yield Finding(
                "eviction",
                Level.WARNING if used < most else Level.FAILURE,
                f"{used / 1e6:,.0f} of {most / 1e6:,.0f} MB are used; it "
                + ("soon takes no more jobs" if used < most else "takes no more jobs"),
                f"ltx gc --older-than 7d; or, as admin, redis-cli CONFIG SET maxmemory {2 * used}",
            )
        else:
            bound = f" of {most / 1e6:,.0f} MB" if most else ""
            yield Finding("eviction", Level.OK, f"noeviction, {used / 1e6:,.1f} MB{bound} used")

    def clock(self) -> Iterator[Finding]:
        """Check whether this machine's clock and the broker's agree."""
        if self._client is None:
            return
        began = time.time()
        try:
            seconds, microseconds = self._client.time()
        except redis.exceptions.NoPermissionError:
            yield _hidden("clock", "TIME")
            return
        skew = seconds + microseconds / 1e6 - (began + time.time()) / 2
        if abs(skew) > SKEW:
            which = "behind" if skew > 0 else "ahead of"
            yield Finding(
                "clock",
                Level.WARNING,
                f"this machine's clock is {abs(skew):.0f} s {which} the broker's",
                "sudo sntp -sS time.apple.com (macOS), or sudo timedatectl set-ntp true (Linux)",
            )
        else:
            yield Finding("clock", Level.OK, f"within {max(abs(skew), 0.1):.1f} s of the broker's")

    def keys(self) -> Iterator[Finding]:
        """Check whether the farm's own keys have values of the right type, as far as this user may read them."""
        if (client := self._client) is None:
            return
        names = self._names
        reads: dict[str, Callable[[], object]] = {
            names.jobs(): lambda: client.zrange(names.jobs(), 0, 0),
            names.batches(): lambda: client.zrevrange(names.batches(), 0, 0),
            names.workers(): lambda: client.zrange(names.workers(), 0, 0),
            names.paused(): lambda: client.hgetall(names.paused()),
        }
        for key, read in reads.items():
            try:
                read()
            except redis.ResponseError as error:
                if is_wrong_type(error):
                    text = f"{key} is damaged: it has a value of the wrong type, and is ignored"
                    yield Finding("keys", Level.FAILURE, text, f"redis-cli RENAME {key} {key}.damaged, as admin")
                elif not is_outage(error):
                    raise

    def rights(self) -> Iterator[Finding]:
        """Check whether this user may read the farm's keys, and no others."""
        if self._client is None:
            return
        try:
            self._client.zrange(self._names.workers(), 0, 0)
        except redis.exceptions.NoPermissionError:
            yield Finding(
                "rights",
                Level.FAILURE,
                f"this user may not read the keys of {self._names.namespace!r}",
                "make a user with deploy/users.sh, and check that LTX_NAMESPACE is the farm's",
            )
            return
        except redis.ResponseError as error:
            if not is_wrong_type(error):  # which `keys` reports
                raise
        wide = [what for what, probe in self._beyond().items() if probe()]
        if not wide or self._is_private:
            yield Finding("rights", Level.OK, "the farm's keys" + ("" if wide else " and no others"))
        else:
            yield Finding(
                "rights",
                Level.WARNING,
                f"this user may do more than a farm's user needs: {', '.join(wide)}",
                "make a user with the least rights by deploy/users.sh",
            )

    @property
    def _is_private(self) -> bool:
        """Return whether everything that is sent stays on this machine."""
        return all(_is_loopback(host) for host, _ in self._broker.hosts)

    def _beyond(self) -> dict[str, Callable[[], bool]]:
        """Return probes of rights that a farm's user does not need; none of them changes anything."""
        client = self._client
        assert client is not None

        def allowed(*command: str) -> bool:
            try:
                client.execute_command(*command)
            except redis.exceptions.NoPermissionError:
                return False
            except redis.ResponseError:
                return True
            return True

        return {
            "read other keys": lambda: allowed("EXISTS", "a-key-of-no-farm"),
            "read the configuration": lambda: allowed("CONFIG", "GET", "port"),
            "list users": lambda: allowed("ACL", "USERS"),
        }

    def _info(self, section: str, about: str) -> dict[str, Any] | Finding | None:
        if self._client is None:
            return None
        try:
            answer: Any = self._client.info(section)
        except redis.exceptions.NoPermissionError:
            return _hidden(about, "INFO")
        return dict(answer)

    def _config(self, name: str) -> str | None:
        assert self._client is not None
        try:
            answer: Any = self._client.config_get(name)
        except redis.ResponseError:
            return None
        value = answer.get(name)
        return value.decode() if isinstance(value, bytes) else value


def _hidden(about: str, command: str) -> Finding:
    return Finding(
        about, Level.OK, f"not visible to this user ({command} is not allowed); an admin's ltx doctor sees it"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
