"""Test the units of systemd, as systemd itself reads them, and how much of the machine they expose."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ltx_worker.commands.service import make_plan

DEPLOY = Path(__file__).parents[3] / "deploy"
MOST_EXPOSED = 3.0
FOR_RENDERS = [
    "PrivateDevices",
    "DeviceAllow",
    "ProtectClock",
    "MemoryDenyWriteExecute",
    "ProtectHome",
    "PrivateUsers",
    "UMask",
]
"""Each would keep the GPU, the kernels that MLX compiles, or models and a storage somewhere, from the engine."""


def worker_unit():
    return make_plan("linux", "pocket", None, "INFO").files[0].text


def broker_unit():
    return (DEPLOY / "ltx-farm-broker.service").read_text()


def options(text):
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]\w+=", line))


def test_a_worker_keeps_what_renders_need():
    assert not set(FOR_RENDERS) & set(options(worker_unit()))
    assert options(worker_unit())["ProtectSystem"] == "full"


@pytest.mark.lane("machine")
@pytest.mark.parametrize("unit", [worker_unit, broker_unit])
def test_a_unit(unit, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not here")
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit(), flags=re.MULTILINE)
    path = tmp_path / "ltx.service"
    path.write_text(text)
    verified = subprocess.run([analyze, "verify", path], capture_output=True, text=True, check=False, timeout=60)
    assert not [line for line in verified.stderr.splitlines() if path.name in line], verified.stderr
    security = [analyze, "security", "--offline=true", path]  # from systemd 250 on
    found = subprocess.run(security, capture_output=True, text=True, check=False, timeout=60)
    if "unrecognized option" not in found.stderr:
        assert float(re.search(r"exposure level for \S+ ([\d.]+)", found.stdout)[1]) <= MOST_EXPOSED, found.stdout


def test_the_broker_has_the_folder_that_its_configuration_names():
    (folder,) = re.findall(r"^dir /var/lib/(\S+)$", (DEPLOY / "redis.conf").read_text(), re.MULTILINE)
    assert options(broker_unit())["StateDirectory"] == folder
    assert f"Environment=LTX_HOME=/var/lib/{folder} " not in worker_unit(), "a worker on the same machine takes another"
