"""What is said where jobs wait: that nothing renders here, that no live worker serves them, or that they are paused."""

from types import SimpleNamespace

import pytest

from ltx_client.protocol.pauses import Pause
from ltx_client.waiting import tell_who_waits


@pytest.mark.parametrize(
    ("embedded", "serves", "paused", "said"),
    [
        (
            True,
            False,
            False,
            "warning: nothing renders pocket on this machine now; ltx up, in another terminal, does\n",
        ),
        (False, False, False, "warning: no live worker serves pocket.1; its jobs wait for one (see ltx workers)\n"),
        (True, True, False, ""),
        (False, True, False, ""),
        (False, False, True, "warning: queue pocket was paused"),
    ],
)
def test_who_waits_for_what(make_job, capsys, embedded, serves, paused, said):
    pauses = [Pause(of="queue", id="pocket", name="pocket", by="me", at=0)] if paused else []
    farm = SimpleNamespace(
        is_embedded=embedded,
        workers=lambda: [SimpleNamespace(serves=lambda job: serves)],
        pauses=lambda: pauses,
        now=lambda: 10.0,
    )
    tell_who_waits(farm, [make_job(), make_job()])
    error = capsys.readouterr().err
    assert error.startswith(said) and (error == said or paused)
