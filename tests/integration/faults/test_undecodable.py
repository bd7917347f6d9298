"""Test queue items that are no messages: they are skipped, and the worker continues."""

from tests.integration.conftest import wait_until
from tests.integration.faults.audit import settle_and_audit
from tests.integration.faults.bad_messages import UNDECODABLE


def test_items_that_cannot_be_decoded_are_set_aside(breakable):
    farm = breakable("one")
    farm.render_references((1,))
    pid = farm.workers["one"].process.pid
    for count, (name, make) in enumerate(UNDECODABLE.items(), 1):
        queue = farm.names.namespace + farm.submit().queue
        with farm.admin() as client:
            client.rpush(queue, make(queue, "x"))
            farm.submit()
            wait_until(lambda count=count: client.llen(farm.names.dead()) == count, what=f"the {name} being set aside")
    assert not settle_and_audit(farm)
    assert farm.workers["one"].process.pid == pid
