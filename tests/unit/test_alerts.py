"""Each alert of deploy/ fires when it should, and not before, as Prometheus' own tool evaluates it; it can read all."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
MAC = {"job": "ltx-farm", "instance": "mac-1:9105"}
CASES = {  # series of a sample a minute, the minutes at which the alert is silent and at which it fires, and its labels
    "WorkerGone": ({"up": "1x4 0x20"}, 8, 11, MAC),
    "WorkerPaused": ({'ltx_worker_state{state="paused"}': "0x4 1x20"}, 3, 6, {**MAC, "state": "paused"}),
    "MachineFaults": (
        {'ltx_machine_faults_total{kind="disk"}': "0x10 1+1x50"},
        12,
        20,
        {"instance": MAC["instance"], "kind": "disk"},
    ),
    "WorkerUnready": ({'ltx_worker_state{state="unready"}': "0x4 1x20"}, 3, 6, {**MAC, "state": "unready"}),
    "ThreadFails": ({'ltx_thread_failing{thread="leases"}': "0x4 1x20"}, 6, 8, {**MAC, "thread": "leases"}),
    "NobodyTakesJobs": (
        {
            'ltx_queue_depth{variant="pocket"}': "3x60",
            'ltx_gpu_busy_seconds_total{variant="pocket"}': "0+30x10 300x50",
        },
        15,
        30,
        {"variant": "pocket"},
    ),
    "VideosUndelivered": ({"ltx_undelivered_videos": "0x4 1x40"}, 15, 21, MAC),
    "LeasesLost": ({"ltx_lease_losses_total": "0x10 0+1x50"}, 12, 20, {}),
}


@pytest.fixture
def promtool():
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not here; on Debian it comes with the package prometheus")

    def run(*arguments):
        environment = {**os.environ, "LD_PRELOAD": ""}
        done = subprocess.run([path, *arguments], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def series(name, values):
    """A line of it, with the labels that every sample of a worker has."""
    metric, _, labels = name.partition("{")
    own = ", ".join(f'{label}="{value}"' for label, value in MAC.items())
    return {"series": f"{metric}{{{own}{', ' + labels if labels else '}'}", "values": values}


def test_every_alert_fires_when_it_should(promtool, tmp_path):
    rules = {
        rule["alert"]: rule
        for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    assert set(CASES) == set(rules)
    tests = []
    for alert, (given, silent, fires, labels) in CASES.items():
        for minute in (silent, fires):
            expected = [{"exp_labels": labels}] if minute == fires else []
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [series(name, values) for name, values in given.items()],
                    "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": expected}],
                }
            )
    bare = {"groups": [{"name": "all", "rules": [{**rule, "annotations": {}} for rule in rules.values()]}]}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(bare))
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": tests}))
    promtool("test", "rules", tmp_path / "tests.yml")


def test_prometheus_can_read_what_the_dashboard_asks(promtool, tmp_path):
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    asked = sorted({target["expr"] for panel in panels for target in panel["targets"]})
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    assert len(rules) > 10
    promtool("check", "rules", "--lint=none", tmp_path / "asked.yml")
