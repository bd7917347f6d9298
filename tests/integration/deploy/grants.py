"""Compare the rights of each user, by deploy/users.acl.in, with what MONITOR saw the user do."""

import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field

from redis.exceptions import ConnectionError as Closed
from redis.exceptions import ResponseError

WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
LINE = re.compile(rb"[\d.]+ \[\d+ (?:(?P<lua>lua)|(?P<host>\S+):(?P<port>\d+))\] (?P<words>.*)", re.DOTALL)
ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b'"': b'"', b"\\": b"\\"}
CHANNELS = {"publish": 1, "subscribe": None, "unsubscribe": 0, "psubscribe": None}
"""How many arguments, from the first, name channels; None: all. Unsubscribing is free."""
READ, WRITE = "R", "W"


@dataclass(frozen=True)
class Operation:
    """One command that a user ran: the access to keys that it needs, as (permissions, key) pairs, and its channels."""

    command: str
    keys: tuple = ()
    channels: tuple = ()


@dataclass(frozen=True)
class Grant:
    """The root permissions of a user, or one of its selectors."""

    commands: frozenset
    keys: tuple
    """(permissions, pattern) pairs."""
    channels: tuple

    def uses(self, operation):
        """Return which parts of this grant the operation needs; None if the grant does not permit it."""
        command = next((name for name in names_of(operation.command) if name in self.commands), None)
        if command is None:
            return None
        used = {f"+{command}"}
        for needed, key in operation.keys:
            allowing = ((given, p) for given, p in self.keys if set(needed) <= set(given) and matches(p, key))
            given, pattern = next(allowing, (None, None))
            if pattern is None:
                return None
            used |= {f"%{permission}~{pattern}" for permission in needed or given[0]}  # EXISTS needs either
        for channel in operation.channels:
            pattern = next((p for p in self.channels if matches(p, channel)), None)
            if pattern is None:
                return None
            used.add(f"&{pattern}")
        return used

    def parts(self):
        """Return all its parts. A pattern has one for each of its permissions."""
        keys = {f"%{permission}~{pattern}" for permissions, pattern in self.keys for permission in permissions}
        return {f"+{command}" for command in self.commands} | keys | {f"&{pattern}" for pattern in self.channels}


def names_of(command):
    return (command, command.partition("|")[0])


def matches(pattern, text):
    """Return whether a key matches Redis's glob, of which the file uses only the asterisk and character sets."""
    parts = re.split(r"(\*|\[[^]]+\])", pattern)
    expression = "".join(".*" if part == "*" else part if part[:1] == "[" else re.escape(part) for part in parts)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def parse_users(text):
    """Return the grants of each user: {user: [Grant, …]}, the root permissions first."""
    users = {}
    lines = (line.partition("#")[0].rstrip() for line in text.splitlines())
    joined = re.sub(r"\n[ \t]+", " ", "\n".join(line for line in lines if line))
    for line in joined.splitlines():
        if match := re.fullmatch(r"user (\S+) (.*)", line.strip()):
            selectors = re.findall(r"\(([^)]*)\)", match[2])
            root = re.sub(r"\([^)]*\)", "", match[2])
            users[match[1]] = [parse_grant(words.split()) for words in (root, *selectors)]
    return users


def parse_grant(words):
    keys = []
    for word in words:
        if match := re.fullmatch(r"(?:%([RW]+))?~(.+)", word):
            keys.append((match[1] or READ + WRITE, match[2]))
    commands = frozenset(word[1:] for word in words if word.startswith("+"))
    return Grant(commands, tuple(keys), tuple(word[1:] for word in words if word.startswith("&")))


def unescape(text):
    return re.sub(
        rb"\\(x[0-9a-f]{2}|.)",
        lambda m: bytes.fromhex(m[1][1:].decode()) if len(m[1]) == 3 else ESCAPES[m[1]],
        text,
        flags=re.DOTALL,
    )


@dataclass
class Monitor:
    """A thread that records MONITOR's output with the caller's port; a script's commands are its caller's."""

    client: object
    by_port: dict = field(default_factory=lambda: defaultdict(list))

    def start(self):
        self._connection = self.client.connection_pool.get_connection()
        self._connection.send_command("MONITOR")
        self._connection.read_response()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        """Stop after everything that was done before is recorded."""
        self.client.echo("the end of the test")
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._connection.disconnect()

    def _run(self):
        caller = None
        while True:
            try:
                line = self._connection.read_response(disable_decoding=True, timeout=None)
            except (Closed, ValueError):  # the test has failed and closed it
                return
            match = LINE.fullmatch(line)
            caller = caller if match["lua"] else int(match["port"])
            words = [unescape(word[1]) for word in WORD.finditer(match["words"])]
            if words[0].lower() == b"echo":
                return
            self.by_port[caller].append(tuple(words))


def operations(client, commands):
    """Return the distinct operations among commands.

    client: one that may ask the server which arguments are keys.
    """
    found = set()
    for words in set(commands):
        name = words[0].decode().lower()
        if len(words) > 1 and name in ("client", "config", "acl", "memory", "slowlog", "script"):
            name = f"{name}|{words[1].decode().lower()}"
        if name in CHANNELS:
            found.add(Operation(name, channels=tuple(w.decode() for w in words[1:][: CHANNELS[name]])))
        else:
            found.add(Operation(name, keys=keys_of(client, words)))
    return found


def keys_of(client, words):
    try:
        reply = client.execute_command("COMMAND GETKEYSANDFLAGS", *words)
    except ResponseError:  # the command has no keys
        return ()
    return tuple(
        ((READ if "access" in flags else "") + (WRITE if {"insert", "delete", "update"} & set(flags) else ""), key)
        for key, flags in reply
    )
