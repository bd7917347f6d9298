"""Test when a broker's certificate, or its authority's, ends, and what is said about it."""

import ssl
import time
from unittest import mock

import pytest
import redis
from pydantic import SecretStr

from ltx_client.protocol.names import Names
from ltx_client.shared.broker.certificate import Certificate, broker_certificate, first_to_end
from ltx_client.shared.broker.connection_errors import why_refused, why_unreachable
from ltx_client.shared.doctor import broker_checks
from ltx_client.shared.doctor.broker_checks import BrokerChecks
from ltx_client.shared.doctor.checks import Level

DAY = 86400.0
FARM = ((("commonName", "ltx-farm authority"),),)
OTHER = ((("commonName", "another"),),)


def decoded(ends, **names):
    return {"notAfter": time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(ends * DAY)), **names}


@pytest.mark.parametrize(
    ("peer", "authorities", "ends", "of"),
    [
        (decoded(800, issuer=FARM), [decoded(3000, subject=FARM)], 800, "the broker's certificate"),
        (decoded(800, issuer=FARM), [decoded(700, subject=FARM)], 700, "the certificate of the broker's authority"),
        (decoded(800, issuer=FARM), [decoded(9, subject=OTHER), decoded(3000, subject=FARM)], 800, "the broker's"),
        (decoded(800, issuer=FARM), [decoded(9, subject=FARM), decoded(3000, subject=FARM)], 800, "the broker's"),
        (decoded(800, issuer=FARM), [], 800, "the broker's certificate"),
    ],
)
def test_what_ends_first(peer, authorities, ends, of):
    found = first_to_end(peer, authorities)
    assert (found.ends, found.of.startswith(of)) == (ends * DAY, True)


def test_a_broker_that_is_not_verified_has_none():
    assert first_to_end({}, []) is None
    client = mock.Mock()
    client.connection_pool.get_connection.return_value = mock.Mock(_sock=None)
    assert broker_certificate(client) is None
    assert client.connection_pool.release.called


@pytest.mark.parametrize(
    ("days", "level", "says"),
    [
        (400, Level.OK, "in 400 days"),
        (31, Level.OK, "in 31 days"),
        (29, Level.WARNING, "in 29 days; after that nobody trusts the broker"),
        (0.2, Level.WARNING, "in 0 days; after that"),
        (-1, Level.FAILURE, "in 0 days; after that"),
    ],
)
def test_what_a_doctor_says_of_it(monkeypatch, days, level, says):
    found = Certificate(time.time() + days * DAY + 60, "the broker's certificate", "deploy/certs.sh")
    monkeypatch.setattr(broker_checks, "broker_certificate", lambda _: found)
    checks = BrokerChecks(mock.Mock, SecretStr("rediss://farm:6380/0"), Names())
    assert list(checks.certificate()) == [], "of a broker that does not answer"
    list(checks.broker())
    (finding,) = checks.certificate()
    assert (finding.about, finding.level, says in finding.text) == ("certificate", level, True)
    assert finding.fix == ("" if level is Level.OK else "deploy/certs.sh")
    assert checks.certificate in checks.checks()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (10, "has expired, or this machine's clock is wrong; run deploy/certs.sh again on the broker's machine"),
        (9, "is not valid yet; check this machine's clock"),
        (18, "cannot be trusted (self-signed certificate); LTX_BROKER_CA must name"),
    ],
)
def test_a_certificate_of_another_time_is_told_apart_from_another_authority(code, says):
    cause = ssl.SSLCertVerificationError("no")
    cause.verify_code, cause.verify_message = code, "self-signed certificate"
    error = redis.ConnectionError("no")
    error.__cause__ = cause
    for sentence in (why_refused(error, "farm:6380"), why_unreachable(error, "farm:6380")):
        assert sentence.startswith(f"the certificate of the broker at farm:6380 {says}")
