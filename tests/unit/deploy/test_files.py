"""Test the files of deploy/ that no other test uses, by the real program where there is one, and that they agree."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from pydantic import SecretStr

from ltx_client.shared.settings import FarmSettings
from ltx_models.families.variants import VARIANTS
from ltx_worker.cli import main
from ltx_worker.service.environment import load_environment
from ltx_worker.settings import WorkerSettings
from tests.integration.servers import OFFERED

DEPLOY = Path(__file__).parents[3] / "deploy"
ANSIBLE = DEPLOY / "ansible"
FILES = [path for path in sorted(DEPLOY.rglob("*")) if path.is_file()]
TEXTS = [path for path in FILES if path.suffix != ".png"]
ELSEWHERE = {"LTX_MODELS_DIR", "LTX_FARM", "LTX_CONFIG", "LTX_TEST_SERVERS"}


def ansible(program, *arguments, **options):
    path = Path(sys.executable).with_name(program)
    environment = {**os.environ, "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_NOCOLOR": "1", "LD_PRELOAD": ""}
    done = subprocess.run(
        [path, *arguments], cwd=ANSIBLE, env=environment, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.lane("unit")
@pytest.mark.parametrize("playbook", ["farm.yml", "upgrade.yml"])
def test_ansible_takes_the_playbooks(playbook):
    ansible("ansible-playbook", "-i", "inventory.example.yml", playbook, "--syntax-check")


def tasks_of(name):
    return yaml.safe_load((ANSIBLE / name).read_text())


def test_an_upgrade_takes_one_machine_at_a_time():
    (play,) = tasks_of("upgrade.yml")
    assert (play["serial"], play["any_errors_fatal"]) == (1, True)
    for (play,) in map(tasks_of, ("upgrade.yml", "farm.yml")):
        assert [task["ansible.builtin.import_tasks"] for task in play["tasks"]] == ["worker.yml"]


def test_a_worker_is_drained_before_its_files_change_and_has_settings_before_it_starts():
    drain, wait = tasks_of("drain.yml")
    assert drain["ansible.builtin.command"]["argv"][1:] == ["drain"]
    assert wait["ansible.builtin.command"]["argv"][1:] == ["status"] and wait["until"] == "ltx_status.rc == 1"
    order = []
    for task in tasks_of("worker.yml"):
        argv = str(task.get("ansible.builtin.command", {}).get("argv", ""))
        if task.get("ansible.builtin.include_tasks") == "drain.yml":
            order.append("drain")
        elif "pip" in argv:
            order.append("package")
        elif "ansible.builtin.template" in task:
            order.append("settings")
        elif "install" in argv:
            order.append("written" if "--no-start" in argv else "started")
        assert "'stop'" not in argv and "kickstart" not in argv
        assert ("umask 022" in argv) == ("'venv'" in argv or "'pip'" in argv), "readable, whatever root's umask"
    assert order == ["drain", "package", "written", "settings", "started"]


def test_the_workers_settings_as_ansible_writes_them(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("LTX_")]:
        monkeypatch.delenv(name)
    ca = tmp_path / "ca.crt"
    shutil.copy(Path(__file__).parents[2] / "data/ca.crt", ca)
    password, target = "p'w\"/@:%#$ {x}", tmp_path / "worker.env"
    variables = {"ltx_worker_password": password + "\n", "ltx_storage_url": str(tmp_path)}
    variables["ltx_settings"] = {"LTX_WORKER_METRICS_PORT": 9105, "LTX_WORKER_NAME": "Ann's \\ Mac"}
    ansible(
        "ansible",
        *("-i", "inventory.example.yml", "-c", "local", "-m", "ansible.builtin.template"),
        *("-a", f"src=worker.env.j2 dest={target} mode=0600", "-e", yaml.safe_dump(variables, default_flow_style=True)),
        *("-e", f"ansible_python_interpreter={sys.executable}", "mac-1.local"),
    )
    target.write_text(target.read_text().replace("/etc/ltx-farm/ca.crt", str(ca)))
    before = dict(os.environ)
    try:
        load_environment(target)
        settings = WorkerSettings()
    finally:
        os.environ.clear()
        os.environ.update(before)
    expected = FarmSettings(broker_url=SecretStr("rediss://worker@broker.local:6380/0"), broker_ca=ca)
    url = settings.broker_url.get_secret_value()
    assert url.replace(url[url.index(":", 8) : url.index("@")], "") == expected.broker_url.get_secret_value()
    from redis.connection import parse_url

    assert parse_url(url)["password"] == password
    assert (settings.worker_metrics_port, settings.worker_name) == (9105, "Ann's \\ Mac")


def test_each_variable_is_one_that_is_read():
    known = {f"LTX_{name}".upper() for name in WorkerSettings.model_fields} | ELSEWHERE
    for path in TEXTS:
        named = {name for name in re.findall(r"\bLTX_[A-Z_]+\b", path.read_text()) if not name.endswith("_")}
        assert named <= known, path


def test_each_command_is_one_that_there_is():
    text = "".join(path.read_text() for path in TEXTS)
    named = set(re.findall(r"ltx-worker[ ,\]]+([a-z]+)\b", text)) - {"install"}
    runner = CliRunner()
    for name in {*named, "install"}:
        assert runner.invoke(main, [name, "--help"]).exit_code == 0, name


def test_each_variant_is_one_that_there_is():
    inventory = yaml.safe_load((ANSIBLE / "inventory.example.yml").read_text())["workers"]
    named = {host["ltx_variant"] for host in inventory["hosts"].values()} | {inventory["vars"]["ltx_variant"]}
    assert named <= set(VARIANTS)


def test_the_readme_names_every_file():
    readme = (DEPLOY / "README.md").read_text()
    links = set(re.findall(r"\]\(([^)]+)\)", readme))
    assert {link for link in links if not (DEPLOY / link).exists()} == set()
    named = links | {"README.md"}
    assert {path.relative_to(DEPLOY).parts[0] for path in FILES} <= {link.rstrip("/") for link in named}


def test_the_containers():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert re.fullmatch(r"[\w/-]+:[\w.-]+", service["image"]) and not service["image"].endswith(":latest")
    broker = services["broker"]
    assert broker["image"].rpartition("/")[2].replace(":", " ") in OFFERED  # so that its release is one that is tested
    mounts = dict(volume.split(":")[:2] for volume in broker["volumes"])
    assert mounts.pop("./redis.conf") == broker["entrypoint"][1]
    wanted = re.findall(r"^(?:tls-\S+-file|aclfile|dir) (\S+)$", (DEPLOY / "redis.conf").read_text(), re.MULTILINE)
    assert len(wanted) == 5
    assert mounts == {"./secrets": "/etc/ltx-farm", "broker": "/var/lib/ltx-farm-broker"}
    made = {"users.acl", "broker.crt", "broker.key", "ca.crt"}  # by the scripts, as a test of theirs sees
    assert set(wanted) == {"/var/lib/ltx-farm-broker"} | {f"/etc/ltx-farm/{name}" for name in made}
    assert broker["ports"] == ["6380:6380"]
    assert {name for name in ("broker", "store") if "healthcheck" in services[name]} == {"broker", "store"}
    text = (DEPLOY / "compose.yaml").read_text()
    named = set(re.findall(r"\$\{(\w+)", text.partition("services:")[2]))
    made = text.partition("for name in ")[2].partition(";")[0].split()
    assert named == {f"S3_{name}_PASSWORD" for name in made}
    (policy,) = re.findall(r"^\{.*?^' >", services["bucket"]["command"][0], re.MULTILINE | re.DOTALL)
    allowed = json.loads(policy.removesuffix("' >"))["Statement"]
    assert {place for statement in allowed for place in statement["Resource"]} == {
        "arn:aws:s3:::farm",
        "arn:aws:s3:::farm/*",
    }
    assert "s3:*" not in policy and '"AWS_ACCESS_KEY_ID=root' not in text
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        environment = {**os.environ, "S3_ROOT_PASSWORD": "u", "S3_WORKER_PASSWORD": "p"}
        subprocess.run(
            ["docker", "compose", "-f", DEPLOY / "compose.yaml", "config", "-q"], check=True, env=environment
        )


def test_no_password_is_an_argument_of_a_program_of_the_compose_file():
    """Every user of the machine may list those; the shell's own built-ins are none."""
    lines = [line.strip() for line in (DEPLOY / "compose.yaml").read_text().splitlines()]
    named = [line for line in lines if "$$WORKER_PASSWORD" in line]
    assert named and all(line.startswith("printf ") for line in named)


def test_secrets_of_a_farm_that_is_set_up_in_the_checkout_are_not_committed():
    ignored = (DEPLOY.parent / ".gitignore").read_text().split()
    assert {"deploy/secrets/", "deploy/.env"} <= set(ignored)
