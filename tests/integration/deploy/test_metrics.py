"""Test a worker's metrics, and that the dashboard and alerts of deploy/ use only those."""

import json
import re
import shutil
import socket
import subprocess
import urllib.request

import yaml
from prometheus_client.parser import text_string_to_metric_families

from ltx_client.protocol.state import Status
from ltx_models.families.variants import VARIANTS
from ltx_models.request import GenerationRequest
from ltx_worker.observe.metrics import Metrics
from ltx_worker.settings import WorkerSettings
from tests.integration.conftest import PROMPT, SLOW_STEPS, ltx_inside, wait_until
from tests.integration.deploy.conftest import DEPLOY
from tests.integration.farm.test_jobs import engines_of, reach
from tests.integration.servers import free_port

HOT = """
import sys
if "ltx_worker" in sys.orig_argv:
    from ltx_worker.machine import thermal

    thermal._read = lambda: thermal.Heat(71.6, "heavy")
"""
SAMPLE = re.compile(r"\bltx_[a-z_]+\b")


def scrape(port):
    """Return {(sample, its labels): value}."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        families = text_string_to_metric_families(reply.read().decode())
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples, name, /, **labels):
    """Return the sum of the samples of that name which have at least these labels."""
    return sum(v for (n, given), v in samples.items() if n == name and labels.items() <= dict(given).items())


def test_a_worker_is_scraped(farm_env, tmp_path):
    port = free_port()
    (tmp_path / "sitecustomize.py").write_text(HOT)
    farm_env.env["PYTHONPATH"] = str(tmp_path)
    farm_env.start_worker(metrics_port=port, memory_gb=12, lease=60, renew_every=0.5, reap_every=0.5, save_every=0)
    before = scrape(port)
    with farm_env.connect() as farm:
        done = farm.submit(GenerationRequest(prompt=PROMPT, num_steps=8, seed=1))
        *_, last = farm.watch(done.id)
        assert last.snapshot.status is Status.DONE
        dying = farm.submit(GenerationRequest(prompt=PROMPT, num_steps=SLOW_STEPS, seed=2))
        waiting = [farm.submit(GenerationRequest(prompt=PROMPT, seed=seed)) for seed in range(3)]
        reach(farm, dying.id, 5)
        wait_until(lambda: value(scrape(port), "ltx_step_seconds_count") >= 8 + 5, what="what is counted of the steps")
        busy = scrape(port)
        engines_of(farm_env.folder)[0].kill()
        wait_until(lambda: farm.view(dying.id).snapshot.attempt == 2, what="the second attempt")
        farm.cancel(dying.id)
        for update in farm.watch(*(job.id for job in waiting)):
            last = update
    # An attempt is counted after its last event.
    wait_until(lambda: value(scrape(port), "ltx_jobs_total", outcome="done") == 4, what="what is counted of the jobs")
    after = scrape(port)

    assert value(before, "ltx_jobs_total", outcome="done") == 0
    assert value(before, "ltx_queue_depth") == 0
    assert {dict(labels)["variant"] for name, labels in before if name == "ltx_queue_depth"} == set(VARIANTS)
    assert value(before, "ltx_memory_budget_bytes") == 12e9
    assert value(before, "ltx_worker_info", name="one", variant="pocket") == 1
    assert value(before, "ltx_temperature_celsius") == 71.6
    assert value(before, "ltx_thermal_pressure") == 2
    assert "72 °C" in ltx_inside("workers", env=farm_env.env).stdout

    assert value(busy, "ltx_worker_state", state="rendering") == 1
    assert value(busy, "ltx_queue_depth", variant="pocket") == 3
    assert value(busy, "ltx_step_seconds_count") >= 8 + 5
    assert value(busy, "ltx_phase_seconds_count", phase="denoise") == 1
    assert 1e6 < value(busy, "ltx_render_peak_memory_bytes") < 12e9

    assert value(after, "ltx_engine_deaths_total") == 1
    assert value(after, "ltx_jobs_total", outcome="released") == 1
    assert value(after, "ltx_jobs_total", outcome="cancelled") == 1
    assert value(after, "ltx_jobs_total", outcome="done") == 4
    assert value(after, "ltx_queue_depth") == 0
    assert value(after, "ltx_lease_losses_total") == value(after, "ltx_undelivered_videos") == 0
    for name in ("ltx_gpu_busy_seconds_total", "ltx_gpu_idle_seconds_total"):
        assert value(after, name) > value(before, name) >= 0

    ask_for_what_there_is(after)


def ask_for_what_there_is(samples):
    """Check that the dashboard and the alerts use existing metrics, and all of them."""
    there = {name for name, _ in samples}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    rules = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    names = {name for expression in asked + [rule["expr"] for rule in rules] for name in SAMPLE.findall(expression)}
    assert names - there == {"ltx_broker_certificate_expiry_timestamp_seconds"}, "which this broker has none of"
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in there}
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names}
    assert {name for name in families if name.startswith("ltx_")} - shown == {"ltx_memory_bytes"}
    for expression in asked:
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            known = {label for _, given in samples for label, _ in given} | {"instance", "le"}
            assert set(labels.split(", ")) <= known


def test_prometheus_takes_its_configuration():
    configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (scraped,) = configuration["scrape_configs"]
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    assert all(
        f'job="{scraped["job_name"]}"' in r["expr"] for g in rules["groups"] for r in g["rules"] if "up{" in r["expr"]
    )
    assert all((DEPLOY / name).exists() for name in configuration["rule_files"])
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "config", DEPLOY / "prometheus.yml"], check=True)


def test_a_port_that_is_taken_keeps_nobody_from_rendering(caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = Metrics("pocket")
        why = metrics.serve("127.0.0.1", taken.getsockname()[1])
        metrics.stop()
    assert why.startswith("no metrics at 127.0.0.1:") and why.endswith("ddress already in use")
    assert why in caplog.text


def test_a_second_worker_of_a_machine_says_which_ports_are_not_its_own(farm_env):
    ports = {"metrics_port": free_port(), "files_port": free_port(), "files_address": "127.0.0.1"}
    farm_env.start_worker("one", **ports)
    farm_env.start_worker("two", **ports)
    words = (
        f"no metrics at 127.0.0.1:{ports['metrics_port']}: Address already in use",
        f"have no download links: 127.0.0.1:{ports['files_port']}: Address already in use",
    )

    def told():  # after the worker is up
        said = ltx_inside("workers", env=farm_env.env).stderr
        return said if all(each in said for each in words) else ""

    said = wait_until(told, what="the notes on both ports")
    assert "two: " in said
    assert "one: " not in said


def test_nothing_listens_unless_asked_to(caplog):
    assert WorkerSettings(broker_url=None).worker_metrics_port == 0
    metrics = Metrics("pocket")
    metrics.serve("127.0.0.1", 0)
    metrics.stop()
    assert not caplog.records
