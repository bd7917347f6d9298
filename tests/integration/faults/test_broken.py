"""Test the audit on a farm whose safeguards are broken: an audit that never finds anything shows nothing."""

import shutil

import pytest

from tests.integration.conftest import wait_until
from tests.integration.faults.audit import settle_and_audit
from tests.integration.faults.faults import strike


def audit_finds(farm, kinds, tell):
    """Audit the farm: check that it finds one of these classes at least, or nothing if there are none.

    Expected findings are awaited briefly, since they remain; a clean farm has all the time that a busy machine needs.
    """
    findings = settle_and_audit(farm, patience=10, tidy_within=3) if kinds else settle_and_audit(farm)
    said = "\n".join(map(str, findings))
    tell(said)
    assert not kinds or kinds & {finding.kind for finding in findings}, said
    assert bool(findings) == bool(kinds), said


def taken_over(farm, job):
    """Return the job's first owner, suspended in mid-render."""
    first = farm.await_held(job.id, "denoising")
    first.suspend()
    farm.unmark(job.id, "denoising.held")
    return first


def first_goes_on(farm, job, first, second_held="denoising"):
    """Suspend the second owner, held in this phase, until the first has ended the job, or learned that it must not.

    The second must have sent fewer events by then than the first will: what the first sends would have the ids of older
    entries else, which the server refuses by itself.
    """
    second = farm.await_held(job.id, second_held)
    second.suspend()
    for phase in {second_held, "denoising"}:
        farm.release(job.id, phase)
    first.resume()
    wait_until(
        lambda: "no longer the current one" in first.log.read_text() or farm.view(job.id).snapshot.ended,
        what="the first owner going on, or learning that it must not",
    )
    second.resume()
    farm.expected[job.id].crashes = 1  # the second's lease may lapse meanwhile


@pytest.mark.parametrize(("broken", "found"), [("", set()), ("fencing", {"other"})])
def test_without_fencing_a_job_is_rendered_twice(breakable, broken, found, tell):
    farm = breakable("one", "two", broken=broken)
    farm.render_references((1,))
    job = farm.submit(hold="denoising")
    first = taken_over(farm, job)
    farm.hold(job.id, "loading")
    first_goes_on(farm, job, first, "loading")
    audit_finds(farm, found, tell)


@pytest.mark.parametrize(("broken", "found"), [("", set()), ("reaper", {"stuck"})])
def test_without_the_reaper_the_job_of_a_dead_worker_is_stuck(breakable, broken, found, tell):
    farm = breakable("one", "two", broken=broken)
    farm.render_references((1,))
    job = farm.submit(hold="denoising")
    strike(farm, job, "denoising", "worker killed")
    farm.await_workers()
    audit_finds(farm, found, tell)


@pytest.mark.parametrize(("broken", "found"), [("", set()), ("token", {"doubled", "other"})])
def test_without_the_token_two_first_attempts_are_one(breakable, broken, found, tell):
    """The server comes back without its last writes, as after a fail-over, and grants the same attempt again."""
    farm = breakable("one", "two", broken=broken)
    farm.render_references((1,))
    log = farm.server._folder.path / "appendonlydir"
    job = farm.submit(hold="queued")
    farm.await_held(job.id, "queued")
    farm.kill_server()
    shutil.copytree(log, farm.folder / "earlier")
    farm.server.start()
    farm.hold(job.id, "denoising")
    farm.mark(job.id, "step", "1")
    farm.release(job.id, "queued")
    first = taken_over(farm, job)
    farm.hold(job.id, "denoising")
    farm.mark(job.id, "step", "5")  # more events than the first's, so that those look as if they were sent again
    farm.kill_server()
    shutil.rmtree(log)
    shutil.copytree(farm.folder / "earlier", log)
    farm.server.start()
    first_goes_on(farm, job, first)
    audit_finds(farm, found, tell)
