"""Test a broker that is the wrong one, or refuses: one clear sentence and exit code 69 on both sides."""

import asyncio
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest

from ltx_client import AsyncFarm
from ltx_client.errors import BrokerUnreachable
from ltx_client.farm.broker import connect
from ltx_client.protocol.names import Names
from ltx_client.shared.passwords import password_from_file
from ltx_client.shared.settings import FarmSettings
from ltx_worker.observe.metrics import _Clock, _Lookups
from tests.integration.conftest import ltx
from tests.integration.deploy.conftest import DEPLOY, run_script, running_broker

SIDES = ["client", "worker"]


def test_an_event_loop_is_let_in_and_is_told_of_a_wrong_authority(secured, others_authority):
    async def jobs(settings):
        async with AsyncFarm(settings) as farm:
            return await farm.jobs()

    settings = secured.server.settings("client")
    assert asyncio.run(jobs(settings)) == []
    others = FarmSettings(broker_url=secured.server.url("client"), broker_ca=others_authority / "ca.crt")
    with pytest.raises(BrokerUnreachable, match=f"127.0.0.1:{secured.server.port} cannot be trusted"):
        asyncio.run(jobs(others))


def refused(secured, side, **changes):
    """Return the error of a command of that side when its environment is changed so."""
    env = {**secured.env, "LTX_BROKER_URL": secured.server.url(side), **changes}
    if side == "client":
        done = ltx("jobs", env=env)
    else:
        command = [sys.executable, "-m", "ltx_worker", "start"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert secured.server.password(side) not in done.stderr
    assert done.returncode == 69
    return done.stderr


@pytest.fixture(scope="module")
def others_authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    run_script("certs.sh", folder, "localhost")
    return folder


@pytest.mark.parametrize("side", SIDES)
def test_a_wrong_password(secured, side):
    url = secured.server.url(side).replace(secured.server.password(side), "not-the-word")
    said = refused(secured, side, LTX_BROKER_URL=url)
    assert f"127.0.0.1:{secured.server.port} refused the user name or password; check LTX_BROKER_URL" in said
    assert "not-the-word" not in said


@pytest.mark.parametrize("side", SIDES)
def test_a_wrong_authority(secured, side, others_authority):
    said = refused(secured, side, LTX_BROKER_CA=str(others_authority / "ca.crt"))
    assert f"the certificate of the broker at 127.0.0.1:{secured.server.port} cannot be trusted" in said
    assert "LTX_BROKER_CA must name the file of the authority that signed it" in said


@pytest.mark.parametrize("side", SIDES)
def test_no_authority_is_not_any_authority(secured, side):
    assert "cannot be trusted" in refused(secured, side, LTX_BROKER_CA="")


def sign_for(broker, days):
    """Make another certificate by the broker's own authority, as it is shortly before or after its end."""
    folder = broker.secrets
    script = """openssl req -new -key broker.key -subj /CN=localhost -out csr
    printf 'subjectAltName=IP:127.0.0.1' >ext
    openssl x509 -req -in csr -CA ca.crt -CAkey ca.key -set_serial 7 -days "$0" -extfile ext -out broker.crt"""
    subprocess.run(["sh", "-euc", script, str(days)], cwd=folder, check=True, capture_output=True)
    broker.stop()
    broker.start()


def findings(env):
    done = ltx("doctor", "--json", env=env)
    return {finding["about"]: finding for finding in json.loads(done.stdout)}


def test_the_end_of_the_brokers_certificate_is_told_before(tmp_path, no_farm_env, secrets):
    with running_broker(tmp_path, shutil.copytree(secrets, tmp_path / "secrets"), "redis 7.0") as broker:
        env = {**no_farm_env, **broker.env("client")}
        found = findings(env)["certificate"]
        assert (found["level"], "in 825 days" in found["text"] or "in 824 days" in found["text"]) == ("ok", True)
        with connect(broker.settings("worker").broker_url) as client:
            lookups = _Lookups(
                labels={},
                clock=_Clock(),
                client=client,
                names=Names(),
                heartbeat=mock.MagicMock(),
                budget=0.0,
                waiting=lambda: 0,
            )
            assert abs(gauges(lookups)["ltx_broker_certificate_expiry_timestamp_seconds"] - time.time()) > 800 * 86400
            sign_for(broker, 10)
            found = findings(env)["certificate"]
            assert (found["level"], "deploy/certs.sh again" in found["mend"]) == ("warning", True)
            client.connection_pool.disconnect()
            told = gauges(lookups)
            assert told["ltx_broker_up"] == 1 and "ltx_queue_depth" in told
            ends = told["ltx_broker_certificate_expiry_timestamp_seconds"]
            assert abs(ends - time.time() - 10 * 86400) < 600
        broker.stop()
        assert {name: value for name, value in gauges(lookups).items() if "broker" in name} == {
            "ltx_broker_up": 0,
            "ltx_broker_certificate_expiry_timestamp_seconds": ends,
        }
        broker.start()


def gauges(lookups):
    """Return its metrics of the broker and the queues."""
    lookups.heartbeat.info.return_value.threads = ()
    lookups.heartbeat.info.return_value.temperature = lookups.heartbeat.info.return_value.thermal_pressure = None
    return {sample.name: sample.value for family in lookups.collect() for sample in family.samples}


def test_a_host_that_the_certificate_is_not_for(secured):
    url = secured.server.url("client").replace("127.0.0.1", "localhost.localdomain")
    said = refused(secured, "client", LTX_BROKER_URL=url)
    assert "cannot be trusted (Hostname mismatch" in said or "cannot reach" in said  # where the name is not known


def test_a_broker_that_speaks_no_tls(secured):
    def answer():
        with server.accept()[0] as connection:
            connection.sendall(b"-ERR Protocol error\r\n")
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=answer, daemon=True).start()
        url = secured.server.url("client").replace(str(secured.server.port), str(port))
        said = refused(secured, "client", LTX_BROKER_URL=url)
    assert f"127.0.0.1:{port} does not speak TLS" in said


def test_the_scripts_keep_what_they_made_before(secrets, tmp_path):
    run_script("certs.sh", tmp_path, "one.local")
    run_script("users.sh", tmp_path, "studio:")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run_script("certs.sh", tmp_path, "one.local", "10.0.0.5")
    (tmp_path / "worker.password").unlink()
    run_script("users.sh", tmp_path, "studio:")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed - {"ca.srl"} == {"broker.crt", "broker.key", "worker.password", "users.acl"}
    acl = after["users.acl"].decode()
    assert "~studio:job:*" in acl and "&studio:events:*" in acl and "ltx:" not in acl
    assert after["worker.password"].decode().strip() not in acl
    for name in ("ca.key", "broker.key", "client.password", "worker.password", "admin.password", "users.acl"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0, name
    assert (tmp_path / "ca.crt").stat().st_mode & 0o777 == 0o644


def test_the_scripts_work_where_their_folder_is_copied_to(secrets, tmp_path):
    """They may be called from any folder."""
    copy = tmp_path / "a copy"
    copy.mkdir()
    for path in (*DEPLOY.glob("*.sh"), DEPLOY / "users.acl.in"):
        shutil.copy(path, copy)
    for command in (["a copy/certs.sh", "made", "one.local"], ["a copy/users.sh", "made"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=240)
    assert (tmp_path / "made" / "broker.crt").exists() and (tmp_path / "made" / "users.acl").exists()


def test_the_scripts_find_the_brokers_owner_in_one_place():
    here = [{line for line in (DEPLOY / name).read_text().splitlines() if line} for name in ("certs.sh", "users.sh")]
    assert not [
        line for line in here[0] & here[1] if "chown" in line or "another user's" in line or "umask 022" in line
    ]


def test_a_certificate_is_not_made_by_another_authority_because_the_key_was_put_away(secrets, tmp_path):
    run_script("certs.sh", tmp_path, "one.local")
    (tmp_path / "ca.key").rename(tmp_path / "in-a-safe")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_script("certs.sh", tmp_path, "one.local")
    assert raised.value.returncode == 2 and "ca.key is missing; put it back" in raised.value.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def users_in(folder):
    return [line.split()[1] for line in (folder / "users.acl").read_text().splitlines()]


def test_the_namespaces_of_a_broker_are_remembered(secrets, tmp_path):
    plain = ["client", "worker", "admin"]
    run_script("users.sh", tmp_path, "studio:")
    run_script("users.sh", tmp_path)
    assert users_in(tmp_path) == ["default", *plain]
    assert "~studio:job:*" in (tmp_path / "users.acl").read_text()
    (tmp_path / "namespaces").unlink()  # an older users.sh made none
    run_script("users.sh", tmp_path, "a_b:")
    assert users_in(tmp_path) == ["default", *plain, *(f"a-b-{user}" for user in plain)]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(subprocess.CalledProcessError):
        run_script("users.sh", tmp_path, "a:b:")  # whose users would have the same names
    run_script("users.sh", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    text = before["users.acl"].decode()
    assert "~studio:job:*" in text and "~a_b:job:*" in text and "ltx:" not in text
    assert text.splitlines()[0] == "user default off ~* &* +@all"


@pytest.mark.parametrize("arguments", [["certs.sh"], ["certs.sh", "folder"], ["users.sh"], ["users.sh", "f", "a b"]])
def test_the_scripts_say_how_they_are_used(arguments, tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_script(arguments[0], *(str(tmp_path / word) if word in ("folder", "f") else word for word in arguments[1:]))
    assert raised.value.returncode == 2
    assert len(raised.value.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def refused_by_script(name, folder, *arguments):
    """Return the script's message, and check that it has changed nothing."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_script(name, folder, *arguments)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return raised.value.stderr


@pytest.mark.parametrize("damage", ["echo >{0}", "rm {0}; mkdir {0}", "printf '\r\n' >{0}"])
def test_nobody_is_given_the_password_of_an_empty_line(secrets, tmp_path, damage):
    run_script("users.sh", tmp_path)
    subprocess.run(["sh", "-euc", damage.format(tmp_path / "worker.password")], check=True)
    assert "its first line is empty" in refused_by_script("users.sh", tmp_path)


@pytest.mark.parametrize("written", ["a secret", "a secret\r\n", "a secret\nand a second line\n"])
def test_a_password_of_ones_own_is_what_workers_and_clients_read(secrets, tmp_path, written):
    (tmp_path / "client.password").write_bytes(written.encode())
    run_script("users.sh", tmp_path)
    read = password_from_file(tmp_path / "client.password")
    assert f"user client #{hashlib.sha256(read.encode()).hexdigest()} " in (tmp_path / "users.acl").read_text()


def test_no_farm_of_a_broker_is_left_out(secrets, tmp_path):
    run_script("users.sh", tmp_path, "ltx:", "studio:")
    (tmp_path / "namespaces").write_text("ltx:\nstudio:")  # by an editor that ends no last line
    run_script("users.sh", tmp_path, "third:")
    everybody = [f"{farm}{user}" for farm in ("", "studio-", "third-") for user in ("client", "worker", "admin")]
    assert users_in(tmp_path) == ["default", *everybody]
    (tmp_path / "namespaces").unlink()
    run_script("users.sh", tmp_path)
    assert users_in(tmp_path) == ["default", *everybody]
    assert (tmp_path / "namespaces").read_text() == "ltx:\nstudio:\nthird:\n"
    assert "its users would have another one's names" in refused_by_script("users.sh", tmp_path, "new:", "third")


@pytest.mark.parametrize("further", ["ltx:studio:", "lt"])
def test_no_namespace_begins_with_another(secrets, tmp_path, further):
    """By the pattern of its queues, one farm could access the other's. An existing farm keeps its name."""
    run_script("users.sh", tmp_path, "ltx:", "other:")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "begin alike; use another name" in refused_by_script("users.sh", tmp_path, further)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "namespaces").write_text(f"ltx:\n{further}\n")
    run_script("users.sh", tmp_path, further)
    assert f"~{further}job:*" in (tmp_path / "users.acl").read_text()


@pytest.mark.parametrize(
    "host", ["", "broker.local:6380", "10.0.0.5:6380", "10.0.0.5/24", "[::1]", "a b", "https://broker.local", "a,DNS:b"]
)
def test_a_certificate_for_what_is_no_host_is_refused_with_a_reason(secrets, tmp_path, host):
    assert host in refused_by_script("certs.sh", tmp_path, "broker.local", host)


def test_names_that_a_new_certificate_lacks_are_told(secrets, tmp_path):
    tmp_path.chmod(0o755)
    assert not run_script("certs.sh", tmp_path, "one.local", "10.0.0.5").stderr
    assert not run_script("certs.sh", tmp_path, "10.0.0.5", "one.local", "two.local").stderr
    said = run_script("certs.sh", tmp_path, "two.local").stderr.splitlines()
    assert [line.rpartition("is not for ")[2].split(",")[0] for line in said] == ["IP:10.0.0.5", "DNS:one.local"]


def test_a_damaged_authority_is_told(secrets, tmp_path):
    run_script("certs.sh", tmp_path, f"{'a' * 60}.{'b' * 60}.local")
    (tmp_path / "ca.key").write_text("")
    assert "could not make a certificate for DNS:broker.local" in refused_by_script(
        "certs.sh", tmp_path, "broker.local"
    )
