"""Test how LTX_BROKER_URL and LTX_BROKER_CA become one URL that redis-py and kombu understand alike."""

import os
import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from celery import Celery
from pydantic import SecretStr, ValidationError

from ltx_client.protocol.names import Names
from ltx_client.shared.broker.client import Purpose, make_pool
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.celery_settings import celery_settings
from ltx_client.shared.settings import FarmSettings, broker_address


@pytest.fixture
def authority():
    """Return a self-signed certificate whose key is gone."""
    return Path(__file__).parents[4] / "data/ca.crt"


def settings(url, authority=None):
    return FarmSettings(broker_url=SecretStr(url), broker_ca=authority)


def test_the_authority_goes_into_the_url(authority):
    url = settings("rediss://me:secret@farm:6380/2", authority).broker_url.get_secret_value()
    assert parse_qs(urlsplit(url).query) == {"ssl_cert_reqs": ["required"], "ssl_ca_certs": [str(authority)]}
    assert url.startswith("rediss://me:secret@farm:6380/2?")
    assert broker_address(SecretStr(url)) == "farm:6380"


def test_kombu_encrypts_too_and_verifies(authority):
    for given in (None, authority):
        broker = Broker.parse(settings("rediss://me:secret@farm:6380/2", given).broker_url.get_secret_value())
        app = Celery("test", set_as_current=False)
        app.conf.update(celery_settings(broker, Names()))
        assert app.connection_for_write().transport_options["broker"] == broker
        connection = make_pool(broker, Purpose.COMMAND).make_connection()
        assert connection.cert_reqs == ssl.CERT_REQUIRED
        assert connection.check_hostname
        assert connection.ca_certs == (str(given) if given else None)


def test_what_the_url_says_itself_stays(authority):
    url = f"rediss://farm/0?ssl_ca_certs={authority}&ssl_check_hostname=false"
    broker = Broker.parse(settings(url).broker_url.get_secret_value())
    assert (broker.option("ssl_ca_certs"), broker.option("ssl_check_hostname")) == (str(authority), False)


def test_an_authority_for_a_connection_without_encryption_is_refused(authority):
    with pytest.raises(ValidationError, match="would not be encrypted") as raised:
        settings("redis://me:secret@farm:6379/0", authority)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("text", "sentence"), [(None, "there is no file"), ("hello", "it has no certificate")])
def test_an_authority_that_is_none(tmp_path, text, sentence):
    path = tmp_path / "ca.crt"
    if text:
        path.write_text(text)
    with pytest.raises(ValidationError, match=sentence):
        settings("rediss://farm:6380/0", path)


def test_unset_and_empty_are_the_same(monkeypatch):
    monkeypatch.setenv("LTX_BROKER_CA", "")
    monkeypatch.setenv("LTX_BROKER_URL", "redis://farm:6379/0")
    assert FarmSettings().broker_url.get_secret_value() == "redis://farm:6379/0"


@pytest.mark.parametrize(
    ("home", "why"),
    [
        ("farm", "relative to the current folder"),
        ("./farm", "relative to the current folder"),
        ("/x/a::b", "two colons"),
        ("/x/a\nport 1", "control character"),
        ("/x/\x1b[31m", "control character"),
        (os.fsdecode(b"/x/\xff"), "control character"),
    ],
)
def test_a_home_that_can_hold_no_farm_is_refused(home, why):
    with pytest.raises(ValidationError, match=why):
        FarmSettings(home=home)


@pytest.mark.parametrize("home", ["~/my farm", "/x/farm [abc]*?", "/x/a:b", "/x/Fürst 映画", "/x/'\"#$%{}"])
def test_any_other_home_is_taken(home):
    assert FarmSettings(home=home).home == Path(home).expanduser()
