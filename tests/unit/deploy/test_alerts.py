"""Test that each alert of deploy/ fires when it should, and not before, by Prometheus' own tool."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ltx_models.errors import FaultKind
from ltx_worker.observe.metrics import Metrics

DEPLOY = Path(__file__).parents[3] / "deploy"
MAC = {"job": "ltx-farm", "instance": "mac-1:9105"}
CASES = {
    "WorkerGone": [({"up": "1x4 0x20 1x10"}, {8: None, 11: MAC, 26: None})],
    "BrokerDown": [
        ({"ltx_broker_up": "1x4 0x20 1x10"}, {4: None, 6: None, 8: {}, 26: None}),
        ({"ltx_broker_up": "1x4 stale _x20 1x10"}, {4: None, 8: {}, 20: {}, 27: None}),  # as the workers are gone too
        ({"ltx_broker_up": "1x4 0x20", 'ltx_broker_up{instance="mac-2:9105"}': "1x30"}, {8: None, 20: None}),
    ],
    "BrokerOutOfReach": [
        (
            {"ltx_broker_up": "1x4 0x20 1x9", 'ltx_broker_up{instance="mac-2:9105"}': "1x40"},
            {8: None, 11: MAC, 26: None},
        ),
        ({"ltx_broker_up": "1x4 0x20", 'ltx_broker_up{instance="mac-2:9105"}': "1x4 0x20"}, {11: None, 20: None}),
    ],
    "CertificateEnds": [
        (
            {"ltx_broker_certificate_expiry_timestamp_seconds": f"{30 * 86400 + 600}x20 {800 * 86400}x20"},
            {9: None, 11: {}, 22: None},
        )
    ],
    "WorkerPaused": [
        ({'ltx_worker_state{state="paused"}': "0x4 1x20 stale"}, {3: None, 7: {**MAC, "state": "paused"}, 26: None})
    ],
    "MachineFaults": [
        (
            {'ltx_machine_faults_total{kind="disk"}': "0x10 1+1x20 21x90"},
            {12: None, 20: {"instance": MAC["instance"], "kind": "disk"}, 100: None},
        ),
        (  # all at once: a counter that has no 0 before them would show no increase
            {'ltx_machine_faults_total{kind="disk"}': "0x10 4x40"},
            {9: None, 13: {"instance": MAC["instance"], "kind": "disk"}},
        ),
    ],
    "WorkerUnready": [
        ({'ltx_worker_state{state="unready"}': "0x4 1x20 0x9"}, {3: None, 6: {**MAC, "state": "unready"}, 26: None})
    ],
    "ThreadFails": [
        ({'ltx_thread_failing{thread="leases"}': "0x4 1x20 0x9"}, {6: None, 8: {**MAC, "thread": "leases"}, 26: None})
    ],
    "NobodyTakesJobs": [
        (
            {
                'ltx_queue_depth{variant="pocket"}': "3x40 0x20",
                'ltx_gpu_busy_seconds_total{variant="pocket"}': "0+30x10 300x50",
            },
            {15: None, 30: {"variant": "pocket"}, 42: None},
        ),
        (
            {  # the only worker comes and goes, and takes nothing
                'ltx_queue_depth{variant="pocket"}': "3x2 stale _x3 3x2 stale _x3 3x2 stale _x3 3x2 stale _x3 3x2 0x9",
                'ltx_gpu_busy_seconds_total{variant="pocket"}': "0x2 stale _x3 0x2 stale _x3 0x2 stale _x3 0x2",
            },
            {8: None, 12: {"variant": "pocket"}, 17: {"variant": "pocket"}, 33: None},
        ),
        (
            {  # it renders again
                'ltx_queue_depth{variant="pocket"}': "3x60",
                'ltx_gpu_busy_seconds_total{variant="pocket"}': "0x30 0+30x30",
            },
            {9: None, 20: {"variant": "pocket"}, 34: None},
        ),
    ],
    "VideosUndelivered": [({"ltx_undelivered_videos": "0x4 1x40 0x9"}, {15: None, 21: MAC, 47: None})],
    "LeasesLost": [({"ltx_lease_losses_total": "0x10 0+1x20 20x90"}, {12: None, 20: {}, 100: None})],
}
"""For each alert, series of a sample a minute and, by the minute, the labels with which it fires; None: it does not.
In each first case it does not yet, does, and does no more.
"""


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
    """Return a series with the labels of every worker's sample; of another worker if it is named."""
    metric, _, labels = name.rstrip("}").partition("{")
    given = {**MAC, **dict(label.split("=") for label in labels.split(",") if label)}
    shown = ", ".join(f"{label}={json.dumps(value.strip(chr(34)))}" for label, value in given.items())
    return {"series": f"{metric}{{{shown}}}", "values": values}


def test_every_alert_fires_when_it_should_and_ends(promtool, tmp_path):
    rules = {
        rule["alert"]: rule
        for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    assert set(CASES) == set(rules)
    tests = []
    for alert, cases in CASES.items():
        states = [labels is not None for labels in cases[0][1].values()]
        assert (states[0], any(states), states[-1]) == (False, True, False), alert
        for given, minutes in cases:
            tests += [
                {
                    "interval": "1m",
                    "input_series": [series(name, values) for name, values in given.items()],
                    "alert_rule_test": [
                        {
                            "eval_time": f"{minute}m",
                            "alertname": alert,
                            "exp_alerts": [] if labels is None else [{"exp_labels": labels}],
                        }
                        for minute, labels in minutes.items()
                    ],
                }
            ]
    bare = {"groups": [{"name": "all", "rules": [{**rule, "annotations": {}} for rule in rules.values()]}]}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(bare))
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": tests}))
    promtool("test", "rules", tmp_path / "tests.yml")
    promtool("check", "rules", DEPLOY / "alerts.yml")  # with their sentences


def test_every_kind_of_fault_counts_from_its_first():
    metrics = Metrics("pocket")
    counted = {
        "ltx_machine_faults_total": ("kind", FaultKind),
        "ltx_engine_deaths_total": ("fault", ("machine", "unknown")),
    }
    for name, (label, values) in counted.items():
        for value in values:
            assert metrics.registry.get_sample_value(name, {"variant": "pocket", label: value}) == 0, (name, value)


def test_prometheus_can_read_what_the_dashboard_asks(promtool, tmp_path):
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    asked = sorted({target["expr"] for panel in panels for target in panel["targets"]})
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    assert len(rules) > 10
    promtool("check", "rules", "--lint=none", tmp_path / "asked.yml")
