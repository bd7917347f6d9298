"""Test deploy/README.md's section on the broker, word by word, on Debian's Redis as an unprivileged user."""

import contextlib
import os
import pwd
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis

from tests.integration.deploy.conftest import DEPLOY
from tests.integration.servers import binary_of, free_port

IS_ROOT = os.geteuid() == 0
SYSTEMCTL = """\
#!{python}
import configparser, os, pathlib, pwd, signal, subprocess, sys, time
command, *rest = [word for word in sys.argv[1:] if word != "--now"]
if command != "daemon-reload":
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read("{place}/systemd/ltx-farm-broker.service")
    service, pid_file = unit["Service"], pathlib.Path("{place}/pid")
    if command in ("stop", "restart"):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        while pathlib.Path(f"/proc/{{pid}}").exists():
            time.sleep(0.01)
    if command in ("enable", "start", "restart"):
        state = pathlib.Path("{place}/lib", service["StateDirectory"])
        state.mkdir(mode=int(service["StateDirectoryMode"], 8), exist_ok=True)
        user = {{}}
        if os.geteuid() == 0:
            account = pwd.getpwnam(service["User"])
            os.chown(state, account.pw_uid, account.pw_gid)
            user = {{"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}}
        with open("{place}/server.log", "ab") as log:
            started = ["setsid", *service["ExecStart"].split()]
            umask = int(service["UMask"], 8)
            server = subprocess.Popen(started, stdin=subprocess.DEVNULL, stdout=log, stderr=log, umask=umask, **user)
        pid_file.write_text(str(server.pid))
"""
"""Starts and ends what the unit says, as the user that it names, in a folder of its own."""


class Machine:
    """A machine whose /etc, /var and units are a test's folders, with a copy of deploy/ that names those."""

    def __init__(self, place):
        self.place, self.port = place, free_port()
        self.etc, self.data, self.backups = place / "etc", place / "lib/ltx-farm-broker", place / "backups"
        for folder in ("lib", "backups", "systemd", "bin"):
            (place / folder).mkdir()
        places = {
            "/etc/systemd/system": place / "systemd",
            "/etc/ltx-farm": self.etc,
            "/var/lib": place / "lib",
            "/var/backups": self.backups,
            "/usr/bin/redis-server": f"{binary_of('redis 7.0')} ",
            "broker.local 10.0.0.5": "localhost 127.0.0.1",
            "bind * -::*": "bind 127.0.0.1",
            "6380": self.port,
        }
        shutil.copytree(DEPLOY, place / "deploy")
        for name in ("redis.conf", "README.md", "ltx-farm-broker.service"):
            path = place / "deploy" / name
            text = path.read_text()
            for there, here in places.items():
                text = text.replace(there, str(here))
            if name == "redis.conf":  # as the child of a stand-in, it has no journal to say it to
                text += f"\nlogfile {self.data}/log\n"
            path.write_text(text)
        self._program("systemctl", SYSTEMCTL.format(python=sys.executable, place=place))
        if not IS_ROOT:
            self._program("chown", "#!/bin/sh\n")
        section = (place / "deploy/README.md").read_text().partition("\n## The broker\n")[2].partition("\n## ")[0]
        self.blocks = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)

    def _program(self, name, text):
        (self.place / "bin" / name).write_text(text)
        (self.place / "bin" / name).chmod(0o755)

    def run(self, script, code=0):
        path = f"{self.place / 'bin'}:{os.environ['PATH']}"
        shell = ["sh", "-euc", f"umask 077\n{script}"]
        done = subprocess.run(
            shell,
            cwd=self.place,
            env={**os.environ, "PATH": path, "LD_PRELOAD": ""},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def follow(self, beginning):
        """Do what the README's only block with a line that begins so says."""
        (block,) = [block for block in self.blocks if f"\n{beginning}" in f"\n{block}"]
        return self.run(block)

    def connect(self, user):
        secret = (self.etc / f"{user}.password").read_text().strip()
        url = f"rediss://{user}:{secret}@localhost:{self.port}/0?ssl_ca_certs={self.etc / 'ca.crt'}"
        return redis.Redis.from_url(url, decode_responses=True)

    def await_broker(self, user="admin"):
        deadline = time.monotonic() + 120
        while True:
            try:
                with self.connect(user) as client:
                    return client.ping()
            except redis.ConnectionError:
                log = self.data / "log"
                assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
                time.sleep(0.05)


@pytest.fixture
def machine(secrets):
    """Return a machine in a folder that an unprivileged user may enter, unlike pytest's.

    secrets: whether openssl is there.
    """
    place = Path(tempfile.mkdtemp(prefix="ltx-broker-"))
    place.chmod(0o755)
    machine = Machine(place)
    try:
        yield machine
    finally:
        with contextlib.suppress(AssertionError):  # where it did not come up
            machine.run("test ! -e pid || systemctl stop ltx-farm-broker")
        shutil.rmtree(place)


def keys(machine):
    with machine.connect("client") as client:
        return {seed for seed in (1, 2) if client.exists(f"ltx:job:{seed}")}


def put(machine, seed):
    with machine.connect("client") as client:
        client.hset(f"ltx:job:{seed}", "a", "b")


def secrets_are_safe(machine):
    """Check that each secret is readable by its owner only; the broker's user owns two of them, and no password."""
    broker = pwd.getpwnam("redis").pw_uid if IS_ROOT else os.geteuid()
    assert machine.etc.stat().st_mode & 0o777 == 0o755
    for path in machine.etc.iterdir():
        is_public = path.name in ("ca.crt", "broker.crt", "redis.conf")
        assert path.stat().st_mode & 0o777 == (0o644 if is_public else 0o600), path
        assert path.stat().st_uid == (broker if path.name in ("broker.key", "users.acl") else os.geteuid()), path
    assert machine.data.stat().st_mode & 0o777 == 0o700


def test_the_section_on_the_broker(machine):
    machine.follow("deploy/certs.sh /")
    machine.await_broker()
    pid = int((machine.place / "pid").read_text())
    status = Path(f"/proc/{pid}/status").read_text()
    assert not IS_ROOT or f"\nUid:\t{pwd.getpwnam('redis').pw_uid}\t" in status
    secrets_are_safe(machine)
    put(machine, 1)
    assert "made " in machine.follow("deploy/backup.sh ")

    as_admin = f"redis-cli --no-auth-warning --tls --cacert {machine.etc}/ca.crt -p {machine.port} --user admin"
    load = f'export REDISCLI_AUTH="$(cat {machine.etc}/admin.password)"; {as_admin} ACL LOAD'
    old = machine.connect("worker")
    assert old.ping()
    machine.run(f"rm {machine.etc}/worker.password; deploy/users.sh {machine.etc}; {load}")
    assert machine.await_broker("worker")
    old.connection_pool.disconnect()
    with pytest.raises(redis.AuthenticationError):
        old.ping()
    machine.run(f"deploy/users.sh {machine.etc} studio:; {load}")
    before = ssl.get_server_certificate(("127.0.0.1", machine.port))
    machine.run(f"deploy/certs.sh {machine.etc} localhost 127.0.0.1; systemctl restart ltx-farm-broker")
    for user in ("client", "worker", "admin", "studio-client", "studio-worker", "studio-admin"):
        assert machine.await_broker(user), user
    assert ssl.get_server_certificate(("127.0.0.1", machine.port)) != before
    secrets_are_safe(machine)

    put(machine, 2)
    assert keys(machine) == {1, 2}
    machine.follow("systemctl stop ltx-farm-broker")
    machine.await_broker()
    assert keys(machine) == {1}
    put(machine, 2)
    machine.run(f"{load.partition(';')[0]}; deploy/backup.sh {machine.data} {machine.backups}/2 -p 1", code=1)
    again = f"deploy/backup.sh {machine.data} {machine.backups}/2/ {as_admin.partition('warning ')[2]}"
    machine.run(f"{load.partition(';')[0]}; {again}")
    assert "exists already" in machine.run(again, code=2)
    machine.run("systemctl restart ltx-farm-broker")
    machine.await_broker()
    assert keys(machine) == {1, 2}


@pytest.mark.skipif(not IS_ROOT, reason="only root has files of two users")
@pytest.mark.parametrize("theirs", ["users.acl", "broker.key"])
@pytest.mark.parametrize("script", ["users.sh", "certs.sh"])
def test_an_operator_who_cannot_give_files_to_the_broker_changes_none(machine, script, theirs):
    machine.run(f"deploy/certs.sh {machine.etc} localhost; deploy/users.sh {machine.etc}; chown -R 65534 {machine.etc}")
    machine.run(f"chown redis {machine.etc}/{theirs}; rm {machine.etc}/client.password")
    before = {path.name: path.stat() for path in machine.etc.iterdir()}
    as_operator = f"setpriv --reuid=65534 --clear-groups deploy/{script} {machine.etc} "
    named = machine.etc / ({"users.sh": "users.acl", "certs.sh": "broker.key"}[script])
    code = 2 if named.name == theirs else 0
    said = machine.run(as_operator + ("studio:" if script == "users.sh" else "h"), code)
    if code:
        assert f"{named} belongs to another user; run this as root" in said
        assert {path.name: path.stat() for path in machine.etc.iterdir()} == before


@pytest.mark.skipif(not IS_ROOT, reason="only root has files of two users")
def test_what_was_removed_is_made_anew_for_the_brokers_user(machine):
    machine.run(f"deploy/certs.sh {machine.etc} localhost; deploy/users.sh {machine.etc}")
    machine.run(f"chown redis {machine.etc}/broker.key {machine.etc}/users.acl; rm {machine.etc}/users.acl")
    machine.run(f"deploy/users.sh {machine.etc}; rm {machine.etc}/broker.key; deploy/certs.sh {machine.etc} localhost")
    users = {(machine.etc / name).stat().st_uid for name in ("broker.key", "users.acl")}
    assert users == {pwd.getpwnam("redis").pw_uid}


def test_a_folder_that_only_its_owner_can_enter_is_warned_of(machine):
    machine.etc.mkdir(mode=0o700)
    said = machine.run(f"deploy/certs.sh {machine.etc} localhost; deploy/users.sh {machine.etc}")
    assert said.count(f"only some users can enter {machine.etc}; use chmod 755") == (2 if IS_ROOT else 0)


def test_a_certificate_that_cannot_be_made_leaves_the_one_that_there_was(machine):
    machine.run(f"deploy/certs.sh {machine.etc} localhost")
    before = {path.name: path.read_bytes() for path in machine.etc.iterdir()}
    machine.run(f"deploy/certs.sh {machine.etc} 10.0.0.999", code=1)
    assert {path.name: path.read_bytes() for path in machine.etc.iterdir()} == before


def test_a_backup_that_cannot_be_made_ends_and_says_so(machine):
    machine.follow("deploy/certs.sh /")
    machine.await_broker()
    machine.run(f"mkdir {machine.place}/stale; cp -R {machine.data}/appendonlydir {machine.place}/stale")
    options = f"--tls --cacert {machine.etc}/ca.crt -p {machine.port} --user admin"
    as_admin = f'export REDISCLI_AUTH="$(cat {machine.etc}/admin.password)"; deploy/backup.sh'
    said = machine.run(f"{as_admin} {machine.data} {machine.backups}/no/such {options}", code=1)
    assert f"could not make {machine.backups}/no/such" in said
    said = machine.run(f"{as_admin} {machine.place}/stale {machine.backups}/1 {options}", code=1)
    assert "DATA must be the broker's own folder" in said
    assert "usage:" in machine.run(f"{as_admin} {machine.data} {options}", code=2)
    assert not list(machine.backups.iterdir())
