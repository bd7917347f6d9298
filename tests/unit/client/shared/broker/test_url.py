"""Test broker URLs as people write them: what each means to redis-py and to Celery, or the refusal."""

import codecs
import os
import re
from urllib.parse import quote

import pytest
import redis
from celery import Celery
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError
from redis.sentinel import SentinelConnectionPool

from ltx_client.cli import main
from ltx_client.protocol.names import Names
from ltx_client.protocol.redaction import shown_url
from ltx_client.shared.broker.client import Purpose, make_pool
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.celery_settings import celery_settings
from ltx_client.shared.passwords import password_from_file
from ltx_client.shared.settings import FarmSettings, why_invalid
from ltx_worker.celery.transport import TRANSPORT

SECRET = "hunter2hunter2"
TCP, TLS, UNIX = redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection

TAKEN = {
    "redis://farm": (TCP, {"host": "farm", "port": 6379, "db": 0}),
    "redis://farm:": (TCP, {"port": 6379}),
    "REDIS://ann:pw@farm:7000/3": (TCP, {"username": "ann", "password": "pw", "port": 7000, "db": 3}),
    "redis://:p%2Fw%23%40%3F%25@farm": (TCP, {"username": None, "password": "p/w#@?%"}),
    "redis://farm?db=4": (TCP, {"db": 4}),
    "redis://farm/0?socket_timeout=20&socket_connect_timeout=1.5": (
        TCP,
        {"socket_timeout": 20.0, "socket_connect_timeout": 1.5},
    ),
    "redis://farm?health_check_interval=5&socket_keepalive=no": (
        TCP,
        {"health_check_interval": 5.0, "socket_keepalive": False},
    ),
    "valkey://farm/1": (TCP, {"host": "farm", "db": 1}),
    "redis://[::1]:7000/1": (TCP, {"host": "::1", "port": 7000, "db": 1}),
    "redis://[fe80::1%25eth0]:1": (TCP, {"host": "fe80::1%eth0"}),
    "redis://fürst.example": (TCP, {"host": "fürst.example"}),
    "rediss://farm:6380/0": (TLS, {"port": 6380, "ssl_cert_reqs": "required"}),
    "valkeys://farm": (TLS, {"port": 6379, "ssl_cert_reqs": "required"}),
    "rediss://farm?ssl_cert_reqs=CERT_NONE&ssl_check_hostname=false": (
        TLS,
        {"ssl_cert_reqs": "none", "ssl_check_hostname": False},
    ),
    "unix:///run/my%20redis.sock?db=2": (UNIX, {"path": "/run/my redis.sock", "db": 2}),
    "unix://ann:pw@/run/r.sock": (UNIX, {"path": "/run/r.sock", "username": "ann", "password": "pw"}),
    "redis+socket:///run/r.sock?virtual_host=5": (UNIX, {"path": "/run/r.sock", "db": 5}),
}


def settings(url):
    return FarmSettings(broker_url=SecretStr(url))


def celery_pool(url, asynchronous):
    """Return the pool by which Celery connects on the worker's side, without connecting."""
    app = Celery("test", set_as_current=False)
    app.conf.update(celery_settings(Broker.parse(url), Names()))
    app.conf.broker_transport_options["dead_list"] = "dead"
    app.conf.broker_transport = TRANSPORT
    connection = app.connection_for_read()
    kind = connection.transport.Channel
    channel = kind.__new__(kind)
    for name in kind.from_transport_options:
        if name in connection.transport_options:
            setattr(channel, name, connection.transport_options[name])
    return channel._get_pool(asynchronous=asynchronous), connection


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("url", TAKEN)
def test_both_libraries_are_told_the_same(url, asynchronous, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere:1/9")  # which Celery would otherwise obey
    kind, expected = TAKEN[url]
    full = settings(url).broker_url.get_secret_value()
    theirs, connection = celery_pool(full, asynchronous)
    for pool in (make_pool(Broker.parse(full), Purpose.COMMAND), theirs):
        assert issubclass(pool.connection_class, kind)
        assert {name: pool.connection_kwargs[name] for name in expected} == expected
        pool.make_connection()  # which refuses an option that it does not know
    assert connection.as_uri() == Broker.parse(full).address
    assert Broker.parse(Broker.parse(full).url) == Broker.parse(full)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("scheme", "tls"), [("sentinel", False), ("sentinels", True)])
def test_sentinels(scheme, tls, asynchronous):
    url = f"{scheme}://ann:p%2Cw@one:1,two,[::1]:3/my%20main/2?sentinel_password=own%40"
    full = settings(url).broker_url.get_secret_value()
    for pool in (make_pool(Broker.parse(full), Purpose.COMMAND), celery_pool(full, asynchronous)[0]):
        assert isinstance(pool, SentinelConnectionPool)
        assert (pool.service_name, pool.connection_kwargs["db"]) == ("my main", 2)
        assert issubclass(pool.connection_class, redis.SSLConnection) == tls
        assert (pool.connection_kwargs["username"], pool.connection_kwargs["password"]) == ("ann", "p,w")
        asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
        assert [(one["host"], one["port"]) for one in asked] == [("one", 1), ("two", 26379), ("::1", 3)]
        assert {one["password"] for one in asked} == {"own@"}
        assert {one.get("ssl_cert_reqs") for one in asked} == ({"required"} if tls else {None})
    assert Broker.parse(full).address == "one:1,two:26379,::1:3/my main"
    assert shown_url(full).startswith(f"{scheme}://ann:***@one:1,two:26379,[::1]:3/my%20main/2?***")


FORMS = r"must be redis://\[USER:PASSWORD@\]HOST:PORT/DB, or rediss://… for TLS, or unix:///PATH, or sentinel://"
ENCODING = "write them as %2F %3F %23 %40, or leave the password to the file that LTX_BROKER_PASSWORD_FILE names"
REFUSED = {
    "redis://farm?foo=1": "has an unknown option, foo; use one of db, socket_timeout",
    "redis://farm?retry_on_timeout=yes&decode_responses=1": "has an unknown option, retry_on_timeout",
    f"redis://farm?password={SECRET}": "has an unknown option, password",
    f"redis://farm?{SECRET}%2F=1": "has an unknown option, one that is not a word",
    "redis://farm?socket_timeout=abc": "socket_timeout must be seconds, from 2 to 3600",
    "redis://farm?socket_timeout=nan": "socket_timeout must be seconds",
    "redis://farm?socket_timeout=0.1": "socket_timeout must be seconds",
    "redis://farm?socket_timeout=3&socket_timeout=4": "has the option socket_timeout twice",
    "redis://farm?socket_keepalive=maybe": "socket_keepalive must be true or false",
    "rediss://farm?ssl_cert_reqs=some": "ssl_cert_reqs must be required, optional or none",
    "rediss://farm?ssl_ca_certs=/none/ca.crt": "there is no file /none/ca.crt",
    "rediss://farm?ssl_certfile=/none/a.crt": "names a certificate, /none/a.crt, and a key, in the same file, that",
    "rediss://farm?ssl_keyfile=/none/a.key": "has the option ssl_keyfile without ssl_certfile",
    "redis://farm?ssl_cert_reqs=none": "has the option ssl_cert_reqs, which is for TLS: for rediss://",
    "unix:///run/r.sock?ssl_cert_reqs=none": "has the option ssl_cert_reqs, which is for TLS$",
    "redis://farm?sentinel_password=x": "has the option sentinel_password, which is for sentinel://",
    "redis://farm/abc": "must end with the number of a database, as in redis://HOST:PORT/0",
    "redis://farm/-1": "must end with the number of a database",
    "redis://farm/٣": "must end with the number of a database",
    "redis://farm/0/1": "names a database twice",
    "redis://farm/1?db=1": "names a database twice",
    "unix:///run/r.sock?db=x": "must end with the number of a database",
    f"redis://ann:{SECRET}#1@farm": ENCODING,
    f"redis://ann:{SECRET}/1@farm": ENCODING,
    f"redis://ann:{SECRET}?1@farm": ENCODING,
    f"redis://ann:{SECRET}@1@farm": ENCODING,
    f"redis://ann:{SECRET}%@farm": "has a % that begins no percent-encoding; write the sign itself as %25, or leave",
    f"redis://ann:{SECRET}%ff@farm": "has percent-encoded bytes that are not UTF-8",
    "redis://farm:0": "has an invalid port; use a number from 1 to 65535",
    "redis://farm:65536": "has an invalid port; use a number from 1 to 65535",
    f"redis://ann:{SECRET}@farm:port": "has an invalid port; use a number from 1 to 65535",
    "redis://farm:٦": "has an invalid port; use a number from 1 to 65535",
    "redis://[::1": "in brackets, as in redis://\\[::1\\]:6379",
    "redis://::1:6379": "in brackets",
    "redis://[farm]": "has an invalid host",
    "redis://": "names no host",
    f"redis://:{SECRET}@:6379/0": "names no host",
    "redis://a..b": "has an invalid host",
    f"redis://{'a' * 64}.example": "has an invalid host",
    "redis://my farm": "has an invalid host",
    "sentinel://one:1;sentinel://two:2/main": "has a semicolon between hosts; it must be a comma",
    "sentinel://one:1;two:2/main": "has a semicolon between hosts",
    "redis://one,two": "names several hosts; for sentinels, use sentinel://HOST:PORT,HOST:PORT/NAME",
    "redis://one;redis://two": "must be a number from|has an invalid host|in brackets",
    "unix://": "must have a socket's whole path after unix://",
    "unix://run/r.sock": "must have a socket's whole path after unix://",
    "unix:///run/a%00b.sock": "it has control characters in it",
    "sentinel://one/a%0ab": "it has control characters in it",
    "sentinel://one,two": "must end with what the sentinels call the broker",
    "sentinel://one,,two/main": "names no host",
    "farm:6379": "must begin with redis://, as in redis://farm:6379",
    "farm": "must be redis://",
    f"ann:{SECRET}@farm:6379": FORMS,
    "redis:/farm": FORMS,
    "http://farm:6379": f"{FORMS}.*; the farm's broker must be a Redis or Valkey server",
    f"amqp://ann:{SECRET}@farm//": f"{FORMS}.*must be a Redis or Valkey server",
    "memory://": f"{FORMS}.*must be a Redis or Valkey server",
    "redis+cluster://farm": f"{FORMS}.*must be a Redis or Valkey server",
    " redis://farm": "has a blank, a line break or a quotation mark around it; leave that out",
    "redis://farm\n": "has a blank, a line break",
    "\ufeffredis://farm": "has a blank, a line break",
    '"redis://farm"': "a quotation mark around it",
    "'redis://farm'": "a quotation mark around it",
    f"redis://ann:{SECRET}\n@farm": "it has control characters in it",
    f"redis://ann:{SECRET}\udcff@farm": "it has control characters in it",
}


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_refused_and_what_would_be_right(url):
    with pytest.raises(ValidationError) as raised:
        settings(url)
    said = why_invalid(raised.value)
    assert re.search(REFUSED[url], said), said
    assert said.startswith("the settings are invalid: LTX_BROKER_URL: ")
    assert SECRET not in said + str(raised.value)


@pytest.mark.parametrize("arguments", [("submit", "x"), ("config", "set", "broker_url")])
@pytest.mark.parametrize(
    "url", ["redis://h?foo=1", f"redis://a:{SECRET}#@h", "redis://h/abc", "amqp://h", '"redis://h"']
)
def test_a_command_says_it_and_nothing_is_written(url, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LTX_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.delenv("LTX_BROKER_URL", raising=False)
    if arguments[0] == "submit":
        monkeypatch.setenv("LTX_BROKER_URL", url)
    else:
        arguments = ("--farm", "studio", *arguments, url)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("Error: "), done.stderr
    assert SECRET not in done.output and not isinstance(done.exception, ValidationError)
    assert list(tmp_path.iterdir()) == []


PASSWORDS = {
    "plain": SECRET.encode(),
    "a newline": f"{SECRET}\n".encode(),
    "CRLF": f"{SECRET}\r\nsecond\r\n".encode(),
    "CR": f"{SECRET}\rsecond".encode(),
    "a BOM": codecs.BOM_UTF8 + f"{SECRET}\n".encode(),
}
NO_PASSWORDS = {
    "nothing": (b"", "its first line is empty"),
    "a BOM alone": (codecs.BOM_UTF8 + b"\n", "its first line is empty"),
    "an empty line": (f"\n{SECRET}".encode(), "its first line is empty"),
    "UTF-16": (SECRET.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    "UTF-16 without its mark": (SECRET.encode("utf-16-le"), "NUL"),
    "Latin-1": (f"{SECRET}é".encode("latin-1"), "it is not UTF-8"),
    "a film": (b"x" * 100_000, "too large"),
}


@pytest.mark.parametrize("case", PASSWORDS)
def test_a_password_as_editors_save_it(case, tmp_path):
    (tmp_path / "p").write_bytes(PASSWORDS[case])
    assert password_from_file(tmp_path / "p") == SECRET


def test_a_password_keeps_what_some_take_for_a_line_break(tmp_path):
    (tmp_path / "p").write_text("one\u2028two\x0cthree\n", encoding="utf-8")
    assert password_from_file(tmp_path / "p") == "one\u2028two\x0cthree"
    url = FarmSettings(broker_url=SecretStr("redis://h"), broker_password_file=tmp_path / "p").broker_url
    assert Broker.parse(url.get_secret_value()).password == "one\u2028two\x0cthree"


@pytest.mark.parametrize("case", NO_PASSWORDS)
def test_a_file_without_a_password(case, tmp_path):
    content, words = NO_PASSWORDS[case]
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot be read from {tmp_path / 'p'}: .*{words}") as raised:
        password_from_file(tmp_path / "p")
    assert SECRET not in str(raised.value)


def test_places_that_hold_no_password(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path, tmp_path / "fifo", tmp_path / "none", "~nobody-of-this-name/p", "a\0b"):
        with pytest.raises(ValueError, match="the broker's password cannot be read from"):
            password_from_file(place)


@pytest.mark.parametrize("name", ["broker_password_file", "broker_sentinel_password_file", "broker_ca"])
def test_a_home_of_nobody(name):
    with pytest.raises(ValidationError, match="is not a folder of this machine"):
        FarmSettings(broker_url=SecretStr("redis://h"), **{name: "~nobody-of-this-name/p"})


def test_two_passwords_in_two_files(tmp_path):
    for name in ("broker", "sentinel"):
        (tmp_path / name).write_text(f"{name}/pw\r\n")
    files = {"broker_password_file": tmp_path / "broker", "broker_sentinel_password_file": tmp_path / "sentinel"}
    broker = Broker.parse(
        FarmSettings(broker_url=SecretStr("sentinel://ann@one/main"), **files).broker_url.get_secret_value()
    )
    assert (broker.username, broker.password, broker.option("sentinel_password")) == ("ann", "broker/pw", "sentinel/pw")
    plain = Broker.parse(FarmSettings(broker_url=SecretStr("redis://one"), **files).broker_url.get_secret_value())
    assert (plain.password, plain.option("sentinel_password")) == ("broker/pw", None)


def test_brokers_with_other_passwords_are_others_to_kombu():
    one, other = Broker.parse("redis://:one@h"), Broker.parse("redis://:other@h")
    assert repr(one) != repr(other) and "one" not in repr(one)
    assert quote("one") not in celery_settings(one, Names())["broker_url"]
