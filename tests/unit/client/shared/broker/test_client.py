"""Test that connections to the broker are made in one place, by one table of time-outs for each purpose."""

import ast
import asyncio
import functools
import re
from pathlib import Path

import pytest
from kombu.transport import redis as kombu_redis

from ltx_client.local.address import Address
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.client import LIMITS, Purpose, make_async_client, make_client, make_pool
from ltx_client.shared.broker.url import OPTIONS, Broker
from ltx_client.shared.celery.celery_settings import celery_settings
from ltx_client.shared.celery.kombu_transport import Channel

ROOT = Path(__file__).parents[5]
BROKER = "ltx_client/shared/broker"
CONSTRUCTORS = {
    "Redis",
    "StrictRedis",
    "RedisCluster",
    "ConnectionPool",
    "BlockingConnectionPool",
    "Sentinel",
    "SentinelConnectionPool",
    "Retry",
    "from_url",
}
LIMITING = {"socket_timeout", "socket_connect_timeout"}

TABLE = {  # seconds to connect, seconds to answer, tries at once after the first, seconds between checks, RESP
    Purpose.COMMAND: (3, 3, 0, 0, 2),
    Purpose.EMBEDDED: (5, 5, 0, 0, None),
    Purpose.SENTINEL: (1, 1, 0, 0, 2),
    Purpose.WORKER_START: (3, 3, 0, 0, None),
    Purpose.WORKER: (3, 10, 3, 10, None),
    Purpose.WORKER_ASIDE: (2, 2, 0, 10, None),
    Purpose.WORKER_DOCTOR: (3, 4, 0, 0, None),
    Purpose.CELERY: (3, 15, 0, 10, None),
    Purpose.LOAD: (5, 5, 0, 0, None),
}
KWARGS = ("socket_connect_timeout", "socket_timeout", "health_check_interval", "protocol")


def made_elsewhere(source):
    """Yield where a file makes redis-py's connections or sets their limits; a client over a pool is neither."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            given = {keyword.arg for keyword in node.keywords}
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in CONSTRUCTORS and "connection_pool" not in given:
                yield node.lineno, name
            yield from ((node.lineno, name) for name in given & LIMITING)
        elif isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            yield from ((node.lineno, name) for name in keys & LIMITING)


def test_no_other_place_makes_a_connection():
    sources = [path for package in ("ltx_*", "deploy") for path in ROOT.glob(f"{package}/**/*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sources}
    assert len(sources) > 200
    found = {name: list(made_elsewhere(source)) for name, source in sources.items()}
    assert {name for name, made in found.items() if made} == {f"{BROKER}/client.py", f"{BROKER}/url.py"}
    assert {name for _, name in found[f"{BROKER}/url.py"]} == LIMITING  # options that a URL may have


@pytest.mark.parametrize(
    "source",
    [
        "redis.Redis(port=1)",
        "Redis.from_url('redis://farm')",
        "redis.asyncio.ConnectionPool(port=1)",
        "Retry(NoBackoff(), 0)",
        "make_client(broker, socket_timeout=3)",
        "options = {'socket_connect_timeout': 3}",
    ],
)
def test_another_place_would_be_seen(source):
    assert list(made_elsewhere(source))
    assert not list(made_elsewhere("redis.Redis(connection_pool=pool); make_client(broker, Purpose.COMMAND)"))


@pytest.mark.parametrize("purpose", Purpose)
def test_what_each_purpose_waits_for(purpose):
    pool = make_pool(Broker.parse("redis://farm"), purpose)
    told, connection = pool.connection_kwargs, pool.make_connection()
    connect, answer, check, protocol = (told.get(name) for name in KWARGS)
    assert (connect, answer, told["retry"].get_retries(), check, protocol) == TABLE[purpose]
    assert connection.retry.get_retries() == TABLE[purpose][2]
    assert connection.socket_keepalive
    assert LIMITS[purpose].why.endswith(".")


@pytest.mark.parametrize("purpose", Purpose)
def test_the_url_goes_before_the_table(purpose):
    url = "redis://farm?socket_timeout=20&socket_connect_timeout=1.5&health_check_interval=7&socket_keepalive=no"
    pool = make_pool(Broker.parse(url), purpose)
    assert [pool.connection_kwargs[name] for name in KWARGS[:3]] == [1.5, 20, 7]
    assert pool.connection_kwargs["socket_keepalive"] is False


def test_sentinels_are_asked_with_limits_of_their_own():
    pool = make_pool(Broker.parse("sentinel://one,two/main"), Purpose.WORKER)
    assert pool.connection_kwargs["socket_timeout"] == 10
    for sentinel in pool.sentinel_manager.sentinels:
        told = sentinel.connection_pool.connection_kwargs
        assert (told["socket_connect_timeout"], told["socket_timeout"]) == (1, 1)
        assert (told["retry"].get_retries(), told["protocol"]) == (0, 2)


def test_the_embedded_server_is_reached_by_the_table():
    address = Address(port=7000, password="secret")
    for anonymous, password in ((False, "secret"), (True, None)):
        with address.connect(anonymous=anonymous) as client:
            told = client.connection_pool.connection_kwargs
        assert (told["host"], told["port"], told["db"]) == ("127.0.0.1", 7000, 0)
        assert (told["username"], told["password"]) == (None, password)
        assert [told[name] for name in KWARGS[:2]] == [5, 5]


def test_celery_waits_longer_than_it_blocks():
    broker = Broker.parse("redis://farm")
    channel = Channel.__new__(Channel)
    channel.broker = broker
    told = channel._get_pool().connection_kwargs
    assert told["socket_timeout"] == LIMITS[Purpose.CELERY].answer_within > kombu_redis.Transport.brpop_timeout
    options = celery_settings(broker, Names())["broker_transport_options"]
    assert options["health_check_interval"] == told["health_check_interval"] == 10


OURS = re.compile(f"host|port|path|db|username|password|protocol|retry|{'|'.join(OPTIONS)}")
"""What we tell connections. redis-py's two kinds of pools add different things of their own."""
URLS = [
    "redis://:pw@farm:7000/2",
    "rediss://ann:pw@farm:7000/2?ssl_cert_reqs=none&ssl_check_hostname=false&socket_timeout=20",
    "unix://ann:pw@/run/redis.sock?db=2",
    "sentinel://:pw@one,two:7000/main/2?sentinel_password=own",
    "sentinels://:pw@one/main?ssl_cert_reqs=optional",
]


def told(pool):
    """What a pool's connections are told, with the same of those to its sentinels; retries as a number."""
    all_of_it = {**pool.connection_kwargs, "retry": pool.connection_kwargs["retry"].get_retries()}
    given = {name: value for name, value in all_of_it.items() if OURS.fullmatch(name)}
    sentinels = getattr(pool, "sentinel_manager", None)
    asked = [told(client.connection_pool) for client in sentinels.sentinels] if sentinels else []
    connection = pool.make_connection()  # which refuses options that it does not know
    return given, connection.retry.get_retries(), getattr(pool, "service_name", None), asked


@pytest.mark.parametrize("purpose", [Purpose.COMMAND, Purpose.WORKER, Purpose.LOAD])
@pytest.mark.parametrize("url", URLS)
def test_asyncio_is_told_the_same(url, purpose):
    async def told_there():
        async with make_async_client(Broker.parse(url), purpose, max_connections=7) as client:
            kind = client.connection_pool.connection_class.__name__
            return kind, client.connection_pool.max_connections, told(client.connection_pool)

    kind, most, there = asyncio.run(told_there())
    pool = make_client(Broker.parse(url), purpose).connection_pool
    here = told(pool)
    assert (kind, most) == (pool.connection_class.__name__, 7)
    assert there == here
    assert {"db", "password", "retry", "socket_timeout"} <= here[0].keys()
    assert len(here[3]) == (len(Broker.parse(url).hosts) if "sentinel" in url else 0)
    for asked, *_ in here[3]:
        assert asked["socket_timeout"] == LIMITS[Purpose.SENTINEL].answer_within


def test_asyncio_may_open_as_many_connections_as_are_asked_for():
    async def most():
        async with make_async_client(Broker.parse("redis://farm"), Purpose.COMMAND) as client:
            return client.connection_pool.max_connections

    assert asyncio.run(most()) == make_pool(Broker.parse("redis://farm"), Purpose.COMMAND).max_connections


def test_a_client_of_asyncio_closes_its_connections_to_sentinels_too():
    async def closed():
        client = make_async_client(Broker.parse("sentinel://one,two/main"), Purpose.COMMAND)
        sentinels = client.connection_pool.sentinel_manager.sentinels
        closed = []
        for sentinel in sentinels:
            sentinel.connection_pool.disconnect = functools.partial(_note, closed)
        await client.aclose()
        return len(sentinels), len(closed)

    assert asyncio.run(closed()) == (2, 2)


async def _note(closed, *_, **__):
    closed.append(True)
