"""Test what an operator reads who lacks the right to pause workers and queues."""

import pytest
import redis

from ltx_client.errors import BrokerUnreachable
from ltx_client.farm.broker import operator_errors


def test_an_operator_reads_which_user_it_takes_and_what_to_do_if_the_users_are_old():
    """To the admin of a broker with an older users.acl, the name of the user alone would say nothing."""
    with pytest.raises(BrokerUnreachable) as raised, operator_errors("host:6380"):
        raise redis.ResponseError("NOPERM User admin has no permissions to run the 'evalsha' command")
    for part in ("only the farm's admin", "LTX_BROKER_URL", "older version", "deploy/users.sh", "ACL LOAD"):
        assert part in str(raised.value)
