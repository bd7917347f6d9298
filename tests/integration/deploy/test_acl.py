"""Test that each user may do what it needs and no more, by comparing a full run with deploy/users.acl.in."""

import contextlib
import re
import signal
import subprocess

import pytest
import redis

from ltx_client.farm.jobs.prepare import submitter
from ltx_client.protocol.jobs import new_job_id
from ltx_client.protocol.names import Names, queue_name
from ltx_client.protocol.pauses import queue_field
from ltx_client.protocol.state import Status
from ltx_client.shared.celery.celery_settings import queue_keys, unacked_keys
from ltx_models.families.variants import VARIANTS
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PROMPT, SLOW_STEPS, ltx, wait_until
from tests.integration.deploy.conftest import DEPLOY
from tests.integration.deploy.grants import Monitor, Operation, matches, operations, parse_users
from tests.integration.farm.test_jobs import engines_of, reach
from tests.integration.faults.proxy import Proxy

QUICK = {
    "lease": 10,  # a busy worker keeps it, and that of a worker which was killed ends soon enough
    "renew_every": 0.5,
    "reap_every": 0.5,
    "save_every": 0,
    "idle_limit": 3,
    "embeds_bytes": 1,  # more than one embedding is too much, so that some are removed
}
NAMES = Names()


def render(steps=8, seed=1):
    return GenerationRequest(prompt=PROMPT, num_steps=steps, seed=seed)


def command(farm, *arguments):
    done = ltx(*arguments, env=farm.env)
    assert done.returncode == 0, done.stderr


def full_run(farm, tester):
    """Do everything that clients and workers do with a broker, each at least once.

    `tester` simulates what takes days.
    """
    first = farm.start_worker("one", **QUICK)
    command(farm, "render", PROMPT, "--preview", farm.folder / "now.jpg", "-o", farm.folder / "a.mp4")
    with farm.connect() as client:
        tester.lpush(queue_keys(NAMES, "pocket.1")[0], "no message")
        wait_until(lambda: tester.llen(NAMES.dead()), what="the dead list")

        # One person's jobs take turns; one is cancelled as it runs, and one as it waits.
        running, turn, waiting = (client.submit(render(SLOW_STEPS, seed)) for seed in range(3))
        client.prioritize(turn.id, 4)
        assert tester.zcard(NAMES.line("pocket", f"4:{submitter()}")) == 1
        client.cancel(waiting.id)
        client.cancel(running.id)
        reach(client, turn.id, 5)

        # A worker is killed, and a day goes by: its job is brought to another, and so is its message.
        _, index = unacked_keys(NAMES)
        if not tester.zcard(index):  # it named a job that has ended, and was forgotten; the next one names this job
            client.pause(turn.id)
            wait_until(lambda: client.view(turn.id).status is Status.QUEUED, what="the pause before the kill")
            client.resume(turn.id)
        wait_until(lambda: tester.zcard(index), what="the message in the worker's hand")
        reach(client, turn.id, 5)
        attempt = client.view(turn.id).snapshot.attempt
        first.kill()
        first.wait()
        tester.zadd(index, dict.fromkeys(tester.zrange(index, 0, -1), 0), xx=True)
        tester.delete(NAMES.job(client.jobs()[-1].job.id))  # a week, for the first job's record
        second = farm.start_worker("two", **QUICK)
        wait_until(lambda: not tester.zrange(index, 0, 1, byscore=True), what="the day-old message being restored")
        wait_until(lambda: client.view(turn.id).snapshot.attempt == attempt + 1, what="the next attempt")
        reach(client, turn.id, 30)

        # Its engine dies: is there another worker for the job?
        engines_of(farm.folder)[0].kill()
        wait_until(lambda: client.view(turn.id).snapshot.attempt == attempt + 2, what="the one after that")

        # It is paused; a batch that waits for another job is submitted; a worker is stopped; a message is lost.
        client.pause(turn.id)
        wait_until(lambda: client.view(turn.id).status is Status.QUEUED, what="the pause")
        client.resume(turn.id)
        lost = client.submit(render(seed=5))
        prompts = farm.folder / "prompts.txt"
        prompts.write_text(PROMPT)
        command(farm, "batch", prompts, "--id", "batch-1", "--after", lost.id, "--then", prompts)
        tester.hset(NAMES.paused(), queue_field("pocket"), "{}")  # which is the admin's to do
        wait_until(lambda: client.workers()[0].why_paused, what="the worker hearing of the pause")
        command(farm, "jobs")
        tester.delete(NAMES.paused())
        second.send_signal(signal.SIGTERM)
        second.wait(120)
        tester.delete(*queue_keys(NAMES, "pocket.1"))
        farm.start_worker("three", **QUICK)
        client.cancel(turn.id)
        *_, last = client.watch(lost.id, *(view.job.id for batch in client.batches() for view in batch.views))
        assert last.snapshot.status is Status.DONE
        assert [update.event.type for update in client.log(lost.id) if update.event][-1] == "done"
        client.cancel(client.retry(turn.id).id)  # or the next job waits for all its steps
        for key in (
            NAMES.line("pocket", f"5:{submitter()}"),
            NAMES.turns("pocket"),
            NAMES.workers(),
        ):  # the indexes, with something wrong in them
            tester.set(key, "x")
        last = client.submit(render(seed=6))
        *_, update = client.watch(last.id)
        assert update.snapshot.status is Status.DONE
        picture = farm.folder / "picture.png"
        shot = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=red:s=64x64", "-frames", "1", str(picture)]
        subprocess.run(shot, check=True)
        command(farm, "render", PROMPT, "--steps", 1, "--image", picture, "-o", farm.folder / "b.mp4")
        for key in tester.keys(NAMES.input("*")):
            tester.delete(key)  # an hour later
        client.find(lost.id[-8:])
        with contextlib.closing(client.changes(progress=True)) as changes:
            assert next(changes).type == "read_again"
    command(farm, "workers")
    without_storage = {name: value for name, value in farm.env.items() if name != "LTX_STORAGE_URL"}
    assert "no storage is set" in ltx("download", lost.id, env=without_storage).stderr
    tester.hset(NAMES.batch("batch-1"), "noted_at", 0)
    command(farm, "gc", "--older-than", "0h", "--yes")
    farm.stop_workers()


def commands_of_the_handbook():
    """Return the commands that deploy/README.md tells an admin to run, after its prompt."""
    lines = (DEPLOY / "README.md").read_text().splitlines()
    found = [line.strip().removeprefix("admin> ") for line in lines if line.strip().startswith("admin> ")]
    return [line.partition("#")[0].split() for line in found]


def test_each_grant_is_needed_and_none_is_missing(secured):
    client, worker = Proxy(secured.server.port), Proxy(secured.server.port)
    secured.client_port, secured.worker_port = client.port, worker.port
    secured.env["LTX_BROKER_URL"] = secured.server.url("client", client.port)
    users = parse_users((DEPLOY / "users.acl.in").read_text())
    with secured.server.connect("tester") as tester:
        monitor = Monitor(tester)
        monitor.start()
        try:
            full_run(secured, tester)
        finally:
            refused = [f"{entry['username']}: {entry['object']}" for entry in tester.acl_log()]
            assert not refused, f"not granted in deploy/users.acl.in: {', '.join(refused)}"
        examined = ltx("doctor", env=secured.env)
        assert "the farm's keys and no others" in examined.stdout, examined.stdout
        assert {entry["object"] for entry in tester.acl_log()} == {"config|get", "acl|users", "a-key-of-no-farm"}
        monitor.stop()
        for user, proxy in (("client", client), ("worker", worker)):
            done = operations(tester, [words for port in proxy.ports for words in monitor.by_port[port]])
            assert len(done) > 50
            done |= unmonitored(tester)
            left = unused(users[user], done)
            assert not left, f"granted to {user}, and not needed: {chr(10).join(left)}"
    client.close()
    worker.close()


def unmonitored(tester):
    """Return operations that MONITOR does not show; test_durability.py shows that each user needs them."""
    return {Operation("acl|dryrun")} if "cmdstat_acl|dryrun" in tester.info("commandstats") else set()


def unused(grants, done):
    """Return the parts of a user's grants that no operation needed.

    An operation counts for the first that permits it.
    """
    used = [set() for _ in grants]
    for operation in done:
        for grant, parts in zip(grants, used, strict=True):
            if (uses := grant.uses(operation)) is not None:
                parts |= uses
                break
    return [part for grant, parts in zip(grants, used, strict=True) for part in sorted(grant.parts() - parts)]


def test_an_unused_grant_and_a_missing_one_are_found():
    (grants,) = parse_users("user one on +ping\n  (+get %R~a:*)  # to read\n  (+set %W~a:* %W~b:*)").values()
    done = {Operation("ping"), Operation("set", (("W", "a:1"),)), Operation("get", (("R", "a:1"),))}
    assert unused(grants, done) == ["%W~b:*"]
    assert unused(grants, done - {Operation("ping")}) == ["+ping", "%W~b:*"]
    assert not any(grant.uses(Operation("get", (("R", "b:1"),))) for grant in grants)
    assert not any(grant.uses(Operation("get", (("RW", "a:1"),))) for grant in grants)


ALL_QUEUES = "ltx:[^_]*.[0-9]*"


@pytest.mark.parametrize("user", ["client", "worker"])
def test_every_variant_has_its_queues(user):
    """A future variant has them too, and no pattern names a variant."""
    patterns = {
        pattern for grant in parse_users((DEPLOY / "users.acl.in").read_text())[user] for _, pattern in grant.keys
    }
    assert ALL_QUEUES in patterns
    assert not [pattern for pattern in patterns for name in VARIANTS if name in pattern]
    for name in (*VARIANTS, "toy", "ltx-2.3"):
        for queue in queue_keys(NAMES, queue_name(name, 12)):
            assert matches(ALL_QUEUES, queue), queue


def test_the_queues_pattern_matches_no_other_kind_of_key():
    """Except for the lines, which both sides write: a person's name may be anything."""
    one = new_job_id()
    of_one = [*NAMES.besides_job(one), NAMES.job(one), NAMES.batch(one), NAMES.batch_jobs(one), NAMES.readers(one)]
    by_content = [NAMES.input("0" * 64), NAMES.embedding("0" * 64), NAMES.worker("0" * 32), NAMES.turns("pocket")]
    of_all = [NAMES.jobs(), NAMES.batches(), NAMES.embeddings(), NAMES.paused(), NAMES.reaper(), NAMES.dead()]
    of_kombu = [*unacked_keys(NAMES), "ltx:unacked_mutex", "ltx:_kombu.binding.pocket.1"]
    for key in (*of_one, *by_content, *of_all, NAMES.workers(), *of_kombu):
        assert not matches(ALL_QUEUES, key), key


@pytest.mark.parametrize("user", ["client", "worker"])
def test_a_server_grants_the_queues_of_a_variant_that_is_yet_to_come(broker, user):
    with broker.connect(user) as connection:
        for queue in queue_keys(NAMES, queue_name("ltx-2.3", 12)):
            assert connection.lpush(queue, "a message") == 1
            assert connection.llen(queue) == 1
        if user == "worker":
            assert connection.brpop(queue, 1)


def test_the_admin_may_do_what_the_handbook_says_and_no_more(secured):
    broker = secured.server
    grants = parse_users((DEPLOY / "users.acl.in").read_text())["admin"]
    handbook = commands_of_the_handbook()
    secured.start_worker("mac-3")
    through = Proxy(broker.port)
    env = {**secured.env, "LTX_BROKER_URL": broker.url("admin", through.port)}
    operating = re.findall(r"^ltx --farm admin (.*?)(?: +#.*)?$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    assert {line.split()[0] for line in operating} == {"pause", "resume", "doctor"}
    with broker.connect("tester") as tester:
        monitor = Monitor(tester)
        monitor.start()
        as_client = ltx("pause", "--queue", "pocket", env=secured.env)
        assert as_client.returncode == 69
        assert "only the farm's admin pause" in as_client.stderr
        tester.script_flush()  # as after a restart of the broker
        for line in operating:
            done = ltx(*line.split(), env=env)
            assert done.returncode == 0, done.stderr
        monitor.stop()
        words = [words for port in through.ports for words in monitor.by_port[port]]
        words += [tuple(word.encode() for word in words) for words in handbook]
        assert unused(grants, operations(tester, words) | unmonitored(tester)) == []
    through.close()
    secured.stop_workers()
    for words in handbook:
        with broker.connect("admin") as admin:
            connection = admin.connection_pool.get_connection()
            connection.send_command(*words)
            said = ""
            try:
                connection.read_response(push_request=words[0] == "SUBSCRIBE")
            except redis.ConnectionError:
                said = "it is closed"
            except redis.ResponseError as error:
                said = str(error)
            if said:  # after ACL LOAD and SHUTDOWN; no script runs
                assert said == "it is closed" or said.startswith("NOTBUSY"), (words, said)
            admin.connection_pool.release(connection)
    assert broker.process.wait(120) == 0
    broker.start()


FORBIDDEN = {
    "client": [
        ("GET", "other:preview:1"),
        ("HGET", "other:job:1", "spec"),
        ("XREAD", "STREAMS", "other:events:1", "0"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("CONFIG", "GET", "*"),
        ("MONITOR",),
        ("ACL", "LIST"),
        ("ACL", "GETUSER", "default"),
        ("ACL", "SETUSER", "default", "on", "nopass"),
        ("ACL", "LOAD"),
        ("SHUTDOWN",),
        ("HSET", "ltx:result:1", "files", "{}"),
        ("HSET", "ltx:state:1", "status", "done"),
        ("XADD", "ltx:events:1", "1-0", "event", "{}"),
        ("DEL", "ltx:state:1"),
        ("HSET", "ltx:paused", "queue:pocket", "{}"),
        ("HDEL", "ltx:paused", "queue:pocket"),
        ("DEL", "ltx:job:1", "ltx:result:1"),
        ("SET", "ltx:lease:1", "token"),
        ("LPUSH", "ltx:state:1", "x"),
        ("LPUSH", "ltx:worker:1", "x"),
        ("LPUSH", "ltx:dead", "x"),
        ("LPUSH", "ltx:_kombu.binding.pocket.1", "x"),
        ("LPUSH", "other:pocket.1", "x"),
        ("RPOP", "ltx:pocket.1"),
        ("DEL", "ltx:pocket.1"),
        ("GET", "ltx:latents:1"),
        ("PUBLISH", "ltx:events:1", "x"),
        ("PUBLISH", "/0.celery.pidbox", "x"),
        ("PUBLISH", "ltx:/0.celery.pidbox", "x"),
        ("SUBSCRIBE", "other:events:1"),
        ("SUBSCRIBE", "other:changes"),
        ("SUBSCRIBE", "ltx:cancel:1"),
        ("PSUBSCRIBE", "*"),
        ("PSUBSCRIBE", "ltx:*"),
        ("EVAL", "return redis.call('HSET', 'ltx:result:1', 'files', '{}')", "0"),
    ],
    "worker": [
        ("HSET", "ltx:job:1", "spec", "{}"),
        ("ZADD", "ltx:jobs", "1", "1"),
        ("SET", "ltx:cancel:1", "1"),
        ("SET", "ltx:line:pocket:5:me", "1"),
        ("SET", "ltx:input:1", "wanted"),
        ("DEL", "ltx:job:1"),
        ("LPUSH", "ltx:job:1", "x"),
        ("BRPOP", "ltx:dead", "1"),
        ("BRPOP", "other:pocket.1", "1"),
        ("HSET", "ltx:paused", "queue:pocket", "{}"),
        ("HGET", "other:job:1", "spec"),
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("PUBLISH", "ltx:cancel:1", "1"),
        ("SUBSCRIBE", "ltx:changes"),
        ("PSUBSCRIBE", "ltx:events:*"),
        ("ACL", "LIST"),
        ("ACL", "GETUSER", "client"),
        ("ACL", "SETUSER", "default", "on", "nopass"),
    ],
    "admin": [
        ("ACL", "GETUSER", "client"),
        ("ACL", "SETUSER", "default", "on", "nopass"),
        ("CONFIG", "GET", "*"),
        ("HSET", "ltx:job:1", "spec", "{}"),
        ("HSET", "ltx:result:1", "files", "{}"),
        ("PUBLISH", "ltx:events:1", "x"),
        ("SUBSCRIBE", "ltx:events:1"),
        ("FLUSHALL",),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("MONITOR",),
    ],
}


@pytest.mark.parametrize("user", FORBIDDEN)
def test_what_each_user_may_not_do(broker, user):
    for words in FORBIDDEN[user]:
        with broker.connect(user) as client, pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*words)


@pytest.mark.parametrize(("user", "key"), [("client", "result"), ("client", "state"), ("worker", "job")])
def test_a_script_may_not_write_what_its_user_may_not(broker, user, key):
    with broker.connect(user) as client:
        write = client.register_script("return redis.call('HSET', KEYS[1], 'a', 'b')")
        with pytest.raises(redis.ResponseError, match="can't access"):
            write(keys=[f"ltx:{key}:1"])
