"""Parse the broker's URL once: redis-py and kombu both receive the result, never the text.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]              rediss:// over TLS; valkey:// and valkeys:// are the same
    unix://[USER:PASSWORD@]/PATH[?db=DB]                  redis+socket:// is the same
    sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]…/NAME[/DB]      sentinels:// over TLS, to them and to the broker

NAME is what the sentinels call the broker. OPTIONS may follow each.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ltx_client.protocol.validation import check_name

__all__ = ["FORMS", "OPTIONS", "Broker"]

FORMS = "redis://[USER:PASSWORD@]HOST:PORT/DB, or rediss://… for TLS, or unix:///PATH, or sentinel://HOST:PORT,…/NAME"
QUOTES = "\"'`‘’“”«»"
MOST_DIGITS = 9
"""Digits of a database's number; the server knows which numbers exist."""


class Scheme(NamedTuple):
    """A scheme of broker URLs.

    Attributes:
        kind: tcp, unix or sentinel.
        other: The scheme for the same broker with encryption, or without.
    """

    kind: str
    tls: bool
    port: int = 0
    other: str = ""


SCHEMES = {
    "redis": Scheme("tcp", tls=False, port=6379, other="rediss"),
    "rediss": Scheme("tcp", tls=True, port=6379, other="redis"),
    "valkey": Scheme("tcp", tls=False, port=6379, other="valkeys"),
    "valkeys": Scheme("tcp", tls=True, port=6379, other="valkey"),
    "unix": Scheme("unix", tls=False),
    "redis+socket": Scheme("unix", tls=False),
    "sentinel": Scheme("sentinel", tls=False, port=26379, other="sentinels"),
    "sentinels": Scheme("sentinel", tls=True, port=26379, other="sentinel"),
}


def _seconds(least: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not least <= (value := float(text)) <= 3600:
            raise ValueError(f"must be seconds, from {least:g} to 3600")
        return value

    return read


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def _verification(text: str) -> str:
    mode = text.lower().removeprefix("cert_")
    if mode not in ("required", "optional", "none"):
        raise ValueError("must be required, optional or none")
    return mode


def _text(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


class Option(NamedTuple):
    """An option of a broker URL.

    Attributes:
        read: Return redis-py's value for the text, or raise ValueError.
        only: The kind of URL that it is for; empty for all.
    """

    read: Callable[[str], Any]
    only: str = ""


OPTIONS = {
    "socket_timeout": Option(_seconds(2)),  # following a job blocks for a second at a time
    "socket_connect_timeout": Option(_seconds(0.1)),
    "socket_keepalive": Option(_boolean),
    "health_check_interval": Option(_seconds(0)),
    "ssl_cert_reqs": Option(_verification, "TLS"),
    "ssl_check_hostname": Option(_boolean, "TLS"),
    "ssl_ca_certs": Option(_text, "TLS"),
    "ssl_certfile": Option(_text, "TLS"),
    "ssl_keyfile": Option(_text, "TLS"),
    "sentinel_username": Option(_text, "sentinel"),
    "sentinel_password": Option(_text, "sentinel"),
}
"""Options by redis-py's names. The sentinels' two are our own: the user and password that the sentinels ask for."""
DATABASE = ("db", "virtual_host")
"""The name of the option with the database's number, in redis-py and kombu."""


@dataclass(frozen=True, repr=False)
class Broker:
    """Where the broker is, and how to connect to it.

    Attributes:
        hosts: The broker's own, or the sentinels'; empty for a socket.
        path: The socket's.
        primary: What the sentinels call the broker.
        options: The text of each of OPTIONS that the URL has.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    primary: str = ""
    database: int = 0
    username: str = ""
    password: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Return the broker that a URL names.

        Raises:
            ValueError: The URL is invalid; the message does not contain it.
        """
        scheme, rest = _split_scheme(url)
        authority, path, query = _split_rest(rest)
        account, _, hosts = authority.rpartition("@")
        user, _, password = account.partition(":")
        options = _options(query, scheme)
        numbers = [options.pop(name) for name in DATABASE if name in options]
        found = cls(scheme, username=_plain(user), password=_plain(password), options=tuple(options.items()))
        kind = SCHEMES[scheme].kind
        if kind == "unix":
            if hosts or not path.strip("/"):
                raise ValueError("must have a socket's whole path after unix://, as in unix:///run/redis.sock")
            return replace(found, path=check_name(_plain(path)), database=_database(numbers))
        words = [word for word in path.split("/") if word]
        if kind == "sentinel":
            if not words:
                raise ValueError("must end with what the sentinels call the broker: sentinel://HOST:PORT,…/NAME")
            found = replace(found, primary=check_name(_plain(words.pop(0))))
        found = replace(found, hosts=_hosts(hosts, SCHEMES[scheme]))
        numbers += words
        return replace(found, database=_database(numbers))

    def __repr__(self) -> str:
        """Return a text that differs for two brokers, which kombu uses as a key, without any secret."""
        return f"<broker {self.address}, database {self.database}, {hash(self):x}>"

    @property
    def kind(self) -> str:
        """Return how the broker is reached: tcp, unix or sentinel."""
        return SCHEMES[self.scheme].kind

    @property
    def tls(self) -> bool:
        """Return whether the connection is encrypted."""
        return SCHEMES[self.scheme].tls

    @property
    def other_scheme(self) -> str:
        """Return the scheme for the same broker with encryption, or without."""
        return SCHEMES[self.scheme].other

    @property
    def address(self) -> str:
        """Return what may be shown: HOST:PORT, a socket's path, or the sentinels and their name for the broker."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return self.path or (f"{hosts}/{self.primary}" if self.primary else hosts)

    @property
    def url(self) -> str:
        """Return a URL from which `parse` makes the same broker."""
        account = quote(self.username, safe="") + f":{quote(self.password, safe='')}" * bool(self.password)
        hosts = ",".join(
            f"[{quote(host, safe=':')}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        options = dict(self.options)
        if self.kind == "unix":
            where = quote(self.path)
            options |= {"db": str(self.database)} if self.database else {}
        else:
            where = f"/{quote(self.primary, safe='')}" * bool(self.primary) + f"/{self.database}"
        query = f"?{urlencode(options)}" if options else ""
        return f"{self.scheme}://{account}{'@' * bool(account)}{hosts}{where}{query}"

    def with_options(self, **options: str) -> Broker:
        """Return the broker with more options."""
        return replace(self, options=tuple({**dict(self.options), **options}.items()))

    def option(self, name: str) -> Any:
        """Return an option's value, as redis-py takes it; None if it is not given."""
        text = dict(self.options).get(name)
        return None if text is None else OPTIONS[name].read(text)

    def given(self, prefix: str) -> dict[str, Any]:
        """Return the given options whose names begin with a prefix, as redis-py takes them."""
        return {name: OPTIONS[name].read(text) for name, text in self.options if name.startswith(prefix)}


def _split_scheme(url: str) -> tuple[str, str]:
    if url.strip(f" \t\r\n\ufeff<>{QUOTES}") != url:
        raise ValueError("has a blank, a line break or a quotation mark around it; leave that out")
    check_name(url)
    scheme, colons, rest = url.partition("://")
    if not colons:
        if re.fullmatch(r"([a-zA-Z0-9-]{1,63}[.])*[a-zA-Z0-9-]{1,63}:[0-9]{1,5}(/[0-9]{0,3})?", url):  # no password
            raise ValueError(f"must begin with redis://, as in redis://{url}")
        raise ValueError(f"must be {FORMS}")
    if scheme.lower() not in SCHEMES:
        raise ValueError(f"must be {FORMS}; the farm's broker must be a Redis or Valkey server")
    return scheme.lower(), rest


def _split_rest(rest: str) -> tuple[str, str, str]:
    """Return what precedes the path, the path, and the options."""
    before = re.split("[/?]", rest, maxsplit=1)[0]
    if re.search("[/?#].*@|#", rest) or before.count("@") > 1:
        raise ValueError(
            "has one of / ? # @ in its user's name, password or path; write them as %2F %3F %23 %40, or leave the"
            " password to the file that LTX_BROKER_PASSWORD_FILE names"
        )
    if re.search("%(?![0-9a-fA-F]{2})", rest):
        raise ValueError(
            "has a % that begins no percent-encoding; write the sign itself as %25, or leave the password to the file"
            " that LTX_BROKER_PASSWORD_FILE names"
        )
    path, _, query = rest.removeprefix(before).partition("?")
    return before, path, query


def _options(query: str, scheme: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("has an option that is not UTF-8") from None
    options: dict[str, str] = {}
    for name, text in pairs:
        shown = name if re.fullmatch("[a-zA-Z][a-zA-Z_]{0,39}", name) else "one that is not a word"
        if name not in OPTIONS and name not in DATABASE:
            raise ValueError(f"has an unknown option, {shown}; use one of {', '.join(('db', *OPTIONS))}")
        if name in options:
            raise ValueError(f"has the option {name} twice")
        option = OPTIONS.get(name, Option(_text))
        if option.only == "TLS" and not SCHEMES[scheme].tls:
            other = SCHEMES[scheme].other
            raise ValueError(f"has the option {name}, which is for TLS{f': for {other}://' if other else ''}")
        if option.only == "sentinel" and SCHEMES[scheme].kind != "sentinel":
            raise ValueError(f"has the option {name}, which is for sentinel://")
        try:
            option.read(text)
            check_name(text)
        except ValueError as error:
            raise ValueError(f"has an invalid option: {name} {error}") from None
        options[name] = text
    return options


def _plain(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("has percent-encoded bytes that are not UTF-8") from None


def _database(numbers: list[str]) -> int:
    if len(numbers) > 1:
        raise ValueError("names a database twice; one number after the last / is enough")
    if not numbers:
        return 0
    if not re.fullmatch(f"[0-9]{{1,{MOST_DIGITS}}}", numbers[0]):
        raise ValueError("must end with the number of a database, as in redis://HOST:PORT/0")
    return int(numbers[0])


def _hosts(text: str, scheme: Scheme) -> tuple[tuple[str, int], ...]:
    if scheme.kind == "sentinel" and ";" in text:  # as Celery's own URLs of sentinels have it
        raise ValueError("has a semicolon between hosts; it must be a comma, as in sentinel://HOST:PORT,HOST:PORT/NAME")
    parts = text.split(",")
    if len(parts) > 1 and scheme.kind == "tcp":
        raise ValueError("names several hosts; for sentinels, use sentinel://HOST:PORT,HOST:PORT/NAME")
    return tuple(_host(part, scheme.port) for part in parts)


def _host(text: str, default: int) -> tuple[str, int]:
    parts = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?", text)
    if parts is None:
        raise ValueError("must have an IPv6 address in brackets, as in redis://[::1]:6379")
    host, port = _plain(parts[1]), parts[2] or ""
    if not host:
        raise ValueError("names no host; it must be redis://HOST:PORT/DB")
    try:
        if host.startswith("["):
            host = str(IPv6Address(host[1:-1]))
        elif not re.fullmatch(r"[\w.-]+", host) or len(host.encode("idna")) > 253:
            raise ValueError
    except ValueError:
        raise ValueError("has an invalid host; use a name or an address") from None
    if port and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        raise ValueError("has an invalid port; use a number from 1 to 65535")
    return host, int(port or default)
