"""Fuzz URLs of brokers and webhooks: accepted by all readers, or refused without the secret; no file is written."""

import http.client
import re
import urllib.request

import pytest
from hypothesis import strategies as st

from ltx_client.errors import UsageError
from ltx_client.protocol import redaction
from ltx_client.protocol.redaction import shown_url
from ltx_client.shared.broker.client import Purpose, make_pool
from ltx_client.shared.broker.url import FORMS, Broker
from ltx_client.shared.celery.kombu_transport import Channel
from ltx_client.terminal import notify
from ltx_client.terminal.arguments.config_changes import write
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import mutated_bytes

SECRET = "hunter2hunter2"
PIECES = (
    *(b":", b"/", b"//", b"@", b"#", b"?", b"&", b"=", b"%", b"%25", b"%ff", b"%00", b"[", b"]", b"[::1]", b",", b";"),
    *(b" ", b"\n", b"\r", b"\t", b"\0", b'"', b"'", b"\\", b"+", b"..", b"$", b"{}", b"-1", b"99999", b"0", b"\xff"),
    *("٣\ufeff\u202e\u2028ß☃é".encode(), b"unix://", b"rediss://", b"sentinel://", b"?db=", b"&ssl_ca_certs=/dev/null"),
)
BROKERS = (
    f"redis://ann:{SECRET}@farm.example:6379/0",
    f"redis://ann:{SECRET}@[::1]:7000/3?socket_timeout=5&socket_connect_timeout=2",
    f"rediss://:{SECRET}@farm?ssl_cert_reqs=none&ssl_check_hostname=false",
    f"unix://ann:{SECRET}@/run/redis.sock?db=2",
    f"sentinel://ann:{SECRET}@one:26379,two,[::1]:3/main/1?sentinel_password={SECRET}",
)
HOOKS = (
    f"https://ann:{SECRET}@hooks.example:8443/a/b?c=d&e=%20",
    f"http://ann:{SECRET}@[::1]/hook",
    f"http://ann:{SECRET}@fürst.example/später?x=ä#top",
)
ODD = st.binary(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join)


@pytest.fixture
def forget(monkeypatch):
    """Forget the secrets of the earlier inputs: those of a whole campaign are too many to search a text for."""
    return lambda: monkeypatch.setattr(redaction, "_known", frozenset())


@pytest.fixture
def read_broker(tmp_path, monkeypatch, forget):
    monkeypatch.setenv("LTX_CONFIG", str(tmp_path / "config.toml"))

    def read(data):
        url = data.decode("utf-8", "surrogateescape")
        forget()
        in_account = re.search(rf"://[^@]*:[^@]*{SECRET}.*@", url, re.DOTALL)
        try:
            write("studio", {"broker_url": url})
        except UsageError as error:
            refusal = str(error)
            assert not in_account or SECRET not in refusal
            assert list(tmp_path.iterdir()) == []
            return refusal
        assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
        (tmp_path / "config.toml").unlink()
        if url:
            use(Broker.parse(url))
            assert not in_account or SECRET not in shown_url(url)
        return None

    return read


def use(broker):
    """Use a URL as the two libraries do, without connecting."""
    assert Broker.parse(broker.url) == broker
    assert SECRET not in repr(broker) or SECRET in f"{broker.hosts}{broker.path}{broker.primary}"
    channel = Channel.__new__(Channel)
    channel.broker = broker
    for pool in (make_pool(broker, Purpose.COMMAND), channel._get_pool(asynchronous=True)):
        pool.make_connection()
        assert (pool.connection_kwargs["password"] or "") == broker.password


@pytest.fixture
def read_hook(forget):
    class Wire:
        def sendall(self, data):
            assert data.decode("ascii")

    def read(data):
        url = data.decode("utf-8", "surrogateescape")
        try:
            forget()
            notify.check_url(url)
        except UsageError as error:
            refusal = str(error)
            assert SECRET not in refusal
            return refusal
        address, account = notify._as_sent(url)
        assert "@" not in urllib.request.Request(address).host
        request = urllib.request.Request(address, b"{}", account)
        connection = http.client.HTTPConnection(request.host)
        connection.sock = Wire()
        connection.request("POST", request.selector, headers=dict(request.headers))
        return None

    return read


def test_brokers(campaign, read_broker):
    valid = tuple(url.encode() for url in BROKERS)
    kind = Kind("broker URLs", read_broker, valid, mutated_bytes(valid, pieces=PIECES), ODD)
    assert campaign(kind).outcomes["mutated taken"]


def test_webhooks(campaign, read_hook):
    valid = tuple(url.encode() for url in HOOKS)
    kind = Kind("webhook URLs", read_hook, valid, mutated_bytes(valid, pieces=PIECES), ODD)
    assert campaign(kind).outcomes["mutated taken"]


def test_the_forms_that_are_offered_are_not_taken_for_secrets():
    assert redaction.redacted(f"it must be {FORMS}") == f"it must be {FORMS}"
