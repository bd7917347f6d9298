"""Run `ltx bench farm`: measure the farm's own overhead, with an engine that renders nothing."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltx_client.bench.plot import plot_latencies, plot_path
from ltx_client.farm.outputs.paths import is_stdout
from ltx_client.shared.console.stdio import notice, print_json
from ltx_client.terminal.arguments.options import OutputPath, json_option
from ltx_models.families.variants import DEFAULT_VARIANT

if TYPE_CHECKING:
    from rich.table import Table

    from ltx_client.bench.overhead import Drain, Idle

__all__ = ["command"]

IDLE_JOBS = 40


@click.command("farm", epilog="Example: ltx bench farm --jobs 300 --json")
@click.option("--jobs", type=click.IntRange(10), default=300, show_default=True, help="Jobs of each measurement.")
@click.option("--steps", type=click.IntRange(1), default=1, show_default=True, help="Steps that each job reports.")
@click.option("--plot", type=OutputPath(), help="Draw the distribution of the latencies as a PNG.")
@json_option
def command(jobs: int, steps: int, plot: str | None, as_json: bool) -> None:
    """Measure the farm's own overhead on this machine, with an engine that renders nothing.

    A private server, which syncs every write to the disk, and real workers: the time from a submit to the job's first
    event, jobs a second through one worker, and Redis's work for a job, which should not depend on the number of jobs
    or workers. Last, with the bundled model, how long an engine with a full queue waits between renders.
    """
    from ltx_client.bench.overhead import measure_drain, measure_idle, measure_latencies
    from ltx_client.bench.private_farm import PrivateFarm
    from ltx_client.terminal.output import print_table

    path = None if plot is None else plot_path(plot, as_json)
    with tempfile.TemporaryDirectory(prefix="ltx-bench-") as folder, PrivateFarm.start(Path(folder)) as farm:
        notice(f"submitting {jobs} jobs one after the other to an idle worker")
        with farm.workers(1):
            latencies = [seconds * 1000 for seconds in measure_latencies(farm, jobs, steps)]
        drains = []
        for count, workers in ((jobs, 1), (3 * jobs, 1), (3 * jobs, 3)):
            notice(f"rendering a queue of {count} jobs with {workers} worker{'s' * (workers > 1)}")
            drains.append(measure_drain(farm, count, workers, steps))
        notice(f"rendering {IDLE_JOBS} jobs with the bundled model")
        idle = measure_idle(farm, IDLE_JOBS)
    if path is not None:
        plot_latencies(latencies, path)
    if as_json:
        print_json(_describe(latencies, drains, idle, steps))
    else:
        for table in (_latency_table(latencies), _drain_table(drains), _idle_table(idle)):
            print_table(table, stderr=is_stdout(path))


def _describe(latencies: list[float], drains: list[Drain], idle: Idle, steps: int) -> dict[str, Any]:
    from ltx_client.bench.overhead import percentile

    return {
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 1),
        },
        "steps": steps,
        "overhead_ms": {
            "p50": round(percentile(latencies, 50), 2),
            "p99": round(percentile(latencies, 99), 2),
            "jobs": len(latencies),
        },
        "between_renders": {
            "renders": idle.renders,
            "seconds_each": round(idle.seconds, 3),
            "waiting_share": round(idle.waiting, 4),
            "mp4_seconds_beside": round(idle.writing, 3),
        },
        "jobs_per_second": round(drains[0].jobs_per_second, 1),
        "queues": [
            {
                "jobs": drain.jobs,
                "workers": drain.workers,
                "jobs_per_second": round(drain.jobs_per_second, 1),
                "redis_per_job": {
                    name: {
                        "commands": round(sum(work.commands.values()), 1),
                        "bytes": round(work.bytes_in + work.bytes_out),
                        "by_command": {key: round(value, 2) for key, value in sorted(work.commands.items())},
                    }
                    for name, work in (("submit", drain.submit), ("render", drain.render))
                },
            }
            for drain in drains
        ],
    }


def _latency_table(latencies: list[float]) -> Table:
    from rich.table import Table

    from ltx_client.bench.overhead import percentile

    table = Table(box=None, pad_edge=False)
    for heading in ("SUBMIT TO FIRST EVENT", "JOBS", "P50", "P99", "MAX"):
        table.add_column(heading, no_wrap=True)
    values = (percentile(latencies, 50), percentile(latencies, 99), max(latencies))
    table.add_row("one idle worker", str(len(latencies)), *(f"{value:.1f} ms" for value in values))
    return table


def _idle_table(idle: Idle) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("ENGINE, FULL QUEUE", "A RENDER", "WAITS FOR THE NEXT", "MP4 COMPLETE AFTER"):
        table.add_column(heading, no_wrap=True)
    table.add_row(
        f"{DEFAULT_VARIANT}, {idle.renders} renders",
        f"{idle.seconds:.2f} s",
        f"{idle.waiting:.1%}",
        f"{idle.writing:.2f} s",
    )
    return table


def _drain_table(drains: list[Drain]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("QUEUE OF", "WORKERS", "JOBS/S", "REDIS COMMANDS A JOB", "BYTES A JOB"):
        table.add_column(heading, no_wrap=True)
    for drain in drains:
        both = (drain.submit, drain.render)
        commands = sum(sum(work.commands.values()) for work in both)
        size = sum(work.bytes_in + work.bytes_out for work in both)
        table.add_row(
            str(drain.jobs), str(drain.workers), f"{drain.jobs_per_second:.0f}", f"{commands:.0f}", f"{size:,.0f}"
        )
    return table
