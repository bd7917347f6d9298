"""Test which error replies mean "not now", however they are wrapped, and what is said about them."""

import errno
import os

import pytest
import redis
from kombu.exceptions import BatchPublishError, OperationalError
from redis._parsers.base import BaseParser

from ltx_client.errors import BrokerError, BrokerUnreachable
from ltx_client.farm.broker import broker_errors
from ltx_client.shared.broker.connection_errors import why_unreachable
from ltx_client.shared.broker.outages import NOT_NOW, error_code, is_outage
from tests.replies import DEFECTS, OUTAGES


def parsed(text):
    return BaseParser.parse_error(text)


def without_code(text):
    """Return the error as older versions of redis-py raise it."""
    error = parsed(text)
    error.status_code = None
    return error


def wrapped(kind):
    def wrap(text):
        try:
            raise kind("it did not work") from parsed(text)
        except Exception as error:  # noqa: BLE001
            return error

    return wrap


def in_a_pipeline(text):
    error = parsed(text)
    words = text if error.status_code is None else str(error)
    error.args = (f"Command # 1 (HSET key field OOM: -BUSY) of pipeline caused error: {words}", *error.args[1:])
    return error


WRAPPED = [parsed, without_code, in_a_pipeline, wrapped(OperationalError), wrapped(BatchPublishError)]


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage(name, wrap):
    assert is_outage(wrap(OUTAGES[name]))


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("name", DEFECTS)
def test_what_is_no_outage(name, wrap):
    assert not is_outage(wrap(DEFECTS[name]))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        OSError("x"),
        KeyError("x"),
        redis.DataError("x"),
        redis.WatchError("x"),
        OSError(errno.EMFILE, "x"),
    ],
    ids=repr,
)
def test_errors_of_others_are_no_outage(error):
    assert not is_outage(error)


def test_a_lost_connection_is_one():
    assert is_outage(redis.ConnectionError("gone"))
    assert is_outage(redis.TimeoutError("slow"))
    assert is_outage(redis.InvalidResponse("HTTP/1.1 400 Bad Request"))
    assert is_outage(OperationalError("kombu does not say why"))


@pytest.mark.parametrize("name", OUTAGES)
def test_each_is_told_in_a_sentence_of_its_own(name):
    with pytest.raises(BrokerUnreachable) as raised, broker_errors("farm:6379"):
        raise parsed(OUTAGES[name])
    assert "farm:6379" in str(raised.value)
    assert raised.value.exit_code == os.EX_UNAVAILABLE
    code = error_code(parsed(OUTAGES[name]))
    if code in NOT_NOW and code not in ("NOAUTH", "WRONGPASS"):
        assert str(raised.value) == f"the broker at farm:6379 {NOT_NOW[code]}"


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_told_in_a_sentence(name):
    with pytest.raises(BrokerError, match="the broker at farm:6379") as raised, broker_errors("farm:6379"):
        raise parsed(DEFECTS[name])
    assert raised.value.exit_code == 1


@pytest.mark.parametrize(
    "reply",
    [
        "AUTH <password> called without any password configured for the default user. Are you sure your configuration"
        " is correct?",
        "Client sent AUTH, but no password is set",
    ],
)
def test_a_password_for_a_server_that_has_none(reply):
    """It may be another server than is meant, or a sentinel: no other password would be right."""
    said = why_unreachable(redis.AuthenticationError(reply), "farm:6379")
    assert said.startswith("the broker at farm:6379 has no password but was given one; check that it is the server")
    assert "refused" in why_unreachable(redis.AuthenticationError("invalid username-password pair"), "farm:6379")
